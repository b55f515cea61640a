"""Writes a cache shard by shard; killed at any instant, it can be resumed.

Order of a shard: old ledger entry gone -> files written aside, synced and
renamed by TensorStore -> read back and hashed -> ledger entry written aside,
synced and renamed. So a shard in the ledger is whole, and one that is not in
the ledger is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
import dataclasses
import errno
import pathlib

from jaxtyping import Integer, UInt8
import numpy as np
import tensorstore as ts

from btr_jax.cache import arrays, checksums, files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheMismatchError, find_differences
from btr_jax.cache.ledger import Ledger
from btr_jax.cache.packing import narrow_token_ids
from btr_jax.cache.plan import CachePlan


class CacheWriter:
  """The one writer of a cache. A context manager: `close` drops the lock."""

  def __init__(
    self,
    path: str | pathlib.Path,
    plan: CachePlan,
    fingerprints: Mapping[str, str],
  ):
    """Begins a cache, or takes up one that was begun with the same plan.

    Args:
      path: folder of the cache; made if absent.
      plan: what is to be written.
      fingerprints: names of model, codec, tokenizer and corpus (and others).

    Raises:
      ValueError: a fingerprint is missing, or `path` is no cache but in use.
      CacheMismatchError: `path` holds a cache of another plan; with a diff.
      CacheLockedError: another process writes to it.
      CacheWriteError: the disk has too little room; nothing was written.
    """
    missing = set(manifests.REQUIRED_FINGERPRINTS) - set(fingerprints)
    if missing:
      raise ValueError(
        f'The fingerprints {sorted(fingerprints)} lack {sorted(missing)}; a '
        'cache must say whose it is.'
      )
    self.path = pathlib.Path(path)
    self.plan = plan
    self._ledger = Ledger(self.path)
    self._fresh = manifests.Manifest(plan.layout, dict(fingerprints))
    self._check_existing()
    plan.check_free_space(self.path, self._bytes_in_place())
    with self._explained('the manifest'):
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = files.WriterLock(self.path)
    try:
      # Once more: another writer may have begun and ended since the check.
      self._complete = self._check_existing()
      self._remove_leftovers()
      self._entries = self._read_entries()
      self._begin()
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> CacheWriter:
    return self

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def close(self) -> None:
    """Drops the lock; the cache stays as it is, and can be resumed."""
    self._lock.release()

  def missing_shards(self) -> list[int]:
    """Shards that must (again) be written.

    Every shard of the ledger is held against the disk: rows, sizes, SHA-256.
    """
    return [
      shard
      for shard in range(self.plan.num_shards)
      if not self._is_whole(shard)
    ]

  def write_shard(
    self,
    index: int,
    bits: UInt8[np.ndarray, 'rows bits_bytes'],
    scale: UInt8[np.ndarray, 'rows scale_bytes'],
    token_ids: Integer[np.ndarray, 'rows'],
  ) -> None:
    """Writes one shard and enters it in the ledger.

    Args:
      index: number of the shard.
      bits: uint8 [rows, bits_bytes], the passages' tokens one after the other.
      scale: uint8 [rows, scale_bytes].
      token_ids: integers [rows].

    Raises:
      IndexError: there is no such shard.
      ValueError: an array has another shape or type than planned.
      CacheWriteError: the write failed (full disk, ...); the shard is absent.
    """
    content = self._check_content(index, bits, scale, token_ids)
    rows = self.plan.shard_rows(index)
    with self._explained(f'shard {index} of {self.plan.num_shards}'):
      self._reopen()
      self._entries.pop(index, None)
      self._ledger.remove(index)
      with ts.Transaction() as transaction:
        for array in self.plan.layout.arrays:
          # TensorStore would merge with what an older file holds.
          (self.path / array.file_name(index)).unlink(missing_ok=True)
          _stage(self._arrays[array.name], transaction, array, index, content)
      entry = manifests.ShardEntry(index, rows, self._hash_files(index, rows))
      self._ledger.write(entry)
    self._entries[index] = entry

  def finish(self) -> manifests.Manifest:
    """Ends the build: the whole ledger goes into the manifest.

    Raises:
      ValueError: shards are missing; names them.
    """
    missing = sorted(set(range(self.plan.num_shards)) - set(self._entries))
    if missing:
      raise ValueError(
        f'{len(missing)} shards are not written yet, the first of them '
        f'{missing[:5]}; write missing_shards() before finish().'
      )
    with self._explained('the manifest'):
      names = [arrays.GROUP_NAME] + [
        f'{array.name}/zarr.json' for array in self.plan.layout.arrays
      ]
      complete = dataclasses.replace(
        self._fresh,
        status=manifests.COMPLETE,
        metadata_files={
          name: manifests.FileEntry.of(self.path / name) for name in names
        },
        shards=tuple(self._entries[i] for i in sorted(self._entries)),
      )
      manifests.write_manifest(self.path, complete)
      self._ledger.clear()
    self._complete = True
    return complete

  def _explained(self, what: str) -> AbstractContextManager[None]:
    return files.explained_write(f'{what} of the cache {self.path}')

  def _check_existing(self) -> bool:
    """Whether a complete cache of this plan stands here; raises if another."""
    try:
      found = manifests.read_manifest(self.path)
    except FileNotFoundError:
      self._check_unused()
      return False
    ours, theirs = self._fresh.to_dict(), found.to_dict()
    differences = [
      difference
      for part in ('layout', 'fingerprints')
      for difference in find_differences(ours[part], theirs[part], f'{part}.')
    ]
    if differences:
      raise CacheMismatchError(
        self.path,
        differences,
        'It was begun with another plan. Remove it, or build in a new folder.',
      )
    return found.status == manifests.COMPLETE

  def _check_unused(self) -> None:
    if not self.path.exists():
      return
    if not self.path.is_dir():
      raise ValueError(f'{self.path} is a file; give a folder for the cache.')
    used = sorted(
      entry.name
      for entry in self.path.iterdir()
      if entry.name != files.LOCK_NAME and not files.is_leftover(entry.name)
    )
    if used:
      raise ValueError(
        f'{self.path} is not a cache, but holds {used[:5]}. Give a new or '
        'empty folder.'
      )

  def _bytes_in_place(self) -> int:
    """Bytes that an interrupted build has already put in its shard files."""
    return sum(
      file.stat().st_size
      for array in self.plan.layout.arrays
      for file in (self.path / array.name).glob('c.*')
    )

  def _remove_leftovers(self) -> None:
    for file in self.path.rglob('*'):
      if files.is_leftover(file.name):
        file.unlink(missing_ok=True)
    if not self._complete:
      # What zarr.json must say follows from the plan; a damaged one is not
      # worth a diagnosis.
      for array in self.plan.layout.arrays:
        (self.path / array.name / 'zarr.json').unlink(missing_ok=True)
      return
    self._ledger.clear()
    found = manifests.read_manifest(self.path)
    for name, entry in found.metadata_files.items():
      file = self.path / name
      if file.exists() and manifests.FileEntry.of(file) != entry:
        file.unlink()

  def _read_entries(self) -> dict[int, manifests.ShardEntry]:
    if self._complete:
      shards = manifests.read_manifest(self.path).shards
      return {shard.index: shard for shard in shards}
    return self._ledger.read()

  def _begin(self) -> None:
    with self._explained('the manifest'):
      if not self._complete:
        if not (self.path / manifests.MANIFEST_NAME).exists():
          manifests.write_manifest(self.path, self._fresh)
        self._ledger.create()
      if not (self.path / arrays.GROUP_NAME).exists():
        files.write_atomic(self.path / arrays.GROUP_NAME, arrays.GROUP_CONTENT)
      self._arrays = {
        array.name: arrays.open_array(
          self.path, self.plan.layout, array, create=True
        )
        for array in self.plan.layout.arrays
      }
      files.sync_folder(self.path)

  def _reopen(self) -> None:
    """Turns a complete cache back into one that is being built (repair)."""
    if not self._complete:
      return
    self._ledger.create()
    for entry in self._entries.values():
      self._ledger.write(entry)
    manifests.write_manifest(self.path, self._fresh)
    self._complete = False

  def _is_whole(self, shard: int) -> bool:
    entry = self._entries.get(shard)
    if entry is None or entry.rows != self.plan.shard_rows(shard):
      self._entries.pop(shard, None)
      return False
    try:
      whole = self._hash_files(shard, entry.rows) == entry.files
    except OSError:
      whole = False
    if not whole:
      del self._entries[shard]
    return whole

  def _hash_files(
    self, shard: int, rows: int
  ) -> dict[str, manifests.FileEntry]:
    """Entries of the shard's files; OSError if one has not its planned size."""
    entries = {}
    for array in self.plan.layout.arrays:
      expected = array.file_bytes(self.plan.layout.rows_of(array, shard, rows))
      if not expected:
        continue
      file = self.path / array.file_name(shard)
      found = file.stat().st_size
      if found != expected:
        raise OSError(
          errno.EIO, f'{file} has {found} bytes; expected {expected}'
        )
      entries[array.name] = manifests.FileEntry.of(file)
    return entries

  def _check_content(
    self,
    index: int,
    bits: np.ndarray,
    scale: np.ndarray,
    token_ids: np.ndarray,
  ) -> dict[str, np.ndarray]:
    if not 0 <= index < self.plan.num_shards:
      raise IndexError(
        f'There is no shard {index}; the plan has {self.plan.num_shards}, '
        'counted from 0.'
      )
    layout = self.plan.layout
    rows = self.plan.shard_rows(index)
    for name, array, shape in (
      ('bits', bits, (rows, layout.bits_bytes)),
      ('scale', scale, (rows, layout.scale_bytes)),
    ):
      if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(
          f'{name} of shard {index} is {array.dtype} {array.shape}; planned '
          f'is uint8 {shape}.'
        )
    if token_ids.shape != (rows,):
      raise ValueError(
        f'token_ids of shard {index} has shape {token_ids.shape}; planned is '
        f'{(rows,)}.'
      )
    lengths = self.plan.shard_lengths(index)
    starts = np.cumsum(lengths, dtype=np.uint32) - lengths
    narrow = narrow_token_ids(token_ids, layout.token_dtype)
    return {
      'bits': bits,
      'scale': scale,
      'token_ids': narrow,
      'passage_starts': starts.astype(np.uint32),
      'passage_lengths': lengths,
      'passage_checksums': checksums.of_rows(lengths, narrow, bits, scale),
    }


def _stage(
  store: ts.TensorStore,
  transaction: ts.Transaction,
  array: arrays.ArrayLayout,
  shard: int,
  content: Mapping[str, np.ndarray],
) -> None:
  """Puts a shard's rows, padded to whole chunks, into the transaction.

  Whole chunks, because then TensorStore writes the file in one go; in a
  transaction, because then it does so once.
  """
  rows = content[array.name]
  if not len(rows):
    return
  padded = array.padded_rows(len(rows))
  if padded > len(rows):
    rows = np.concatenate(
      [rows, np.zeros((padded - len(rows), *rows.shape[1:]), rows.dtype)]
    )
  first = shard * array.rows_per_shard
  store.with_transaction(transaction)[first : first + padded] = rows
