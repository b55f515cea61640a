"""Writes a cache shard by shard; killed at any instant, it can be resumed.

Order of a shard: old ledger entry gone -> each file written aside, synced and
renamed -> ledger entry written aside, synced and renamed. So a shard in the
ledger is whole, and one that is not in the ledger is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib

from jaxtyping import Integer, UInt8
import numpy as np

from btr_jax.cache import checksums, places, shard_files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.assembly import (
  Assembly,
  files_of_shard,
  present_bytes,
)
from btr_jax.cache.packing import narrow_token_ids
from btr_jax.cache.plan import CachePlan, Share


class CacheWriter:
  """The writer of a cache, or of a share of it; its methods may come from
  several threads. A context manager: `close` drops the lock.
  """

  def __init__(
    self,
    path: str | pathlib.Path | places.Place,
    plan: CachePlan,
    fingerprints: Mapping[str, str],
    share: Share = Share(),  # noqa: B008 (frozen)
  ):
    """Begins a cache, or takes up one that was begun with the same plan.

    Args:
      path: folder or URL of the cache; made if absent.
      plan: what is to be written.
      fingerprints: names of model, codec, tokenizer and corpus (and others).
      share: the shards that this writer writes.

    Raises:
      ValueError: a fingerprint is missing, or `path` is no cache but in use.
      CacheMismatchError: `path` holds a cache of another plan; with a diff.
      CacheLockedError: another process writes the same shards.
      CacheWriteError: the disk has too little room; nothing was written.
    """
    missing = set(manifests.REQUIRED_FINGERPRINTS) - set(fingerprints)
    if missing:
      raise ValueError(
        f'The fingerprints {sorted(fingerprints)} lack {sorted(missing)}; a '
        'cache must say whose it is.'
      )
    self.place = places.open_place(path)
    self.plan = plan
    self.share = share
    names = (
      array.file_name(shard)
      for shard in share.shards(plan.num_shards)
      for array in plan.layout.arrays
    )
    there = present_bytes(self.place, names)
    plan.check_free_space(self.place, there, share)
    fresh = manifests.Manifest(plan.layout, dict(fingerprints))
    self.assembly = Assembly(self.place, fresh, share)

  def __enter__(self) -> CacheWriter:
    return self

  def __exit__(self, *exc_info: object) -> None:
    self.close()

  def close(self) -> None:
    """Drops the lock; the cache stays as it is, and can be resumed."""
    self.assembly.close()

  def missing_shards(self) -> list[int]:
    """Shards of the share that must (again) be written.

    Every shard of the ledger is held against the disk: rows, sizes, SHA-256.
    """
    own = self.share.shards(self.plan.num_shards)
    rows = {shard: self.plan.shard_rows(shard) for shard in own}
    return self.assembly.missing_shards(rows)

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
      IndexError: the share has no such shard.
      ValueError: an array has another shape or type than planned.
      CacheWriteError: the write failed (full disk, ...); the shard is absent.
    """
    content = self._check_content(index, bits, scale, token_ids)
    rows = self.plan.shard_rows(index)
    with self.assembly.explained(f'shard {index} of {self.plan.num_shards}'):
      self.assembly.strike(index)
      entries = {}
      for name, array in files_of_shard(self.plan.layout, index, rows).items():
        pieces = shard_files.file_pieces(array, content[array.name])
        self.place.write(name, pieces, self.share.tag)
        entries[array.name] = manifests.FileEntry.of_pieces(pieces)
      self.assembly.enter(manifests.ShardEntry(index, rows, entries))

  def finish(self) -> manifests.Manifest:
    """Ends the build: the whole ledger goes into the manifest.

    Raises:
      ValueError: shards are missing; names them.
    """
    return self.assembly.finish()

  def _check_content(
    self,
    index: int,
    bits: np.ndarray,
    scale: np.ndarray,
    token_ids: np.ndarray,
  ) -> dict[str, np.ndarray]:
    if index not in self.share.shards(self.plan.num_shards):
      raise IndexError(
        f'There is no shard {index} to write; the plan has '
        f'{self.plan.num_shards}, counted from 0, and this writer has share '
        f'{self.share.index + 1}/{self.share.count}.'
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
