"""Reads a compressed cache as if it were not compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from btr_jax.cache import flat, opening, shards, store
from btr_jax.cache.compression import format as format_lib
from btr_jax.cache.compression.verify import first_wrong_size
from btr_jax.cache.errors import CacheCorruptError

is_compressed = format_lib.is_compressed

_NUMBERS = (
  'passage_starts',
  'passage_lengths',
  'passage_checksums',
  'vector_starts',
  'pointer_starts',
)


class _Shard:
  """A shard's arrays as numpy sees them in the mapped files."""

  mapped = True

  def __init__(self, views: Mapping[str, memoryview], rows: int):
    self.rows = rows
    self.views = views
    self.starts = views['passage_starts']
    self.lengths = views['passage_lengths']
    self.checksums = views['passage_checksums']
    self.vector_starts = views['vector_starts']
    self.pointer_starts = views['pointer_starts']


class CompressedStore(store.CacheStore):
  """A compressed cache; look-ups give every token's bits and scale.

  Each look-up is held against the passages' checksums, which are those of the
  rows that it returns, so that damage anywhere on the way is found: in the
  vectors, the pointers, the flags or the codebook.
  """

  def __init__(
    self,
    path: pathlib.Path,
    manifest: format_lib.CompressedManifest,
    *,
    max_open_shards: int | None,
    cache_bytes: int,
    verify: bool,
  ):
    """Use `CacheStore.open`."""
    if max_open_shards is None:
      max_open_shards = shards.default_open_shards(
        len(manifest.shards), len(manifest.arrays)
      )
    super().__init__(
      path,
      manifest,
      max_open_shards=max_open_shards,
      cache_bytes=cache_bytes,
      verify=verify,
    )
    self._checksums = manifest.array('passage_checksums')
    self._vector_starts = manifest.vector_starts
    self._codebook = format_lib.read_codebook(path, manifest)
    # token id -> place in the codebook; ids beyond it are not in there.
    ids = self._codebook['token_id'].astype(np.int64)
    size = np.iinfo(self.layout.token_dtype).max + 1
    self._places = np.full(min(size, int(ids.max(initial=0)) + 2), -1, np.int32)
    self._places[ids] = np.arange(len(ids))

  @classmethod
  def open_compressed(
    cls,
    path: pathlib.Path,
    expected: Mapping[str, str] | None,
    **options: Any,
  ) -> CompressedStore:
    """As `CacheStore.open`, which calls this."""
    manifest = format_lib.read_manifest(path)
    opening.check_fingerprints(path, manifest.fingerprints, expected)
    problem = first_wrong_size(path, manifest)
    if problem:
      raise CacheCorruptError(f'{path}: {problem}. Compress the cache again.')
    return cls(path, manifest, **options)

  def _load(self, index: int) -> Any:
    manifest = self.manifest
    entry = manifest.shards[index]
    views = {}
    for array in manifest.arrays:
      rows = format_lib.rows_of(array, entry)
      view = self._files.rows(array, index, rows)
      if isinstance(view, shards.StoredRows):
        raise CacheCorruptError(
          f'{self.path}/{array.file_name(index)} is not laid out flat, as it '
          'was written. Compress the cache again.'
        )
      if view is None:
        view = memoryview(b'')
      if array.name in _NUMBERS:
        view = view.cast(np.dtype(array.dtype).char)
      views[array.name] = view
    return _Shard(views, entry.rows['tokens'])

  def _copy(
    self,
    passage_ids: list[int],
    located: Sequence[tuple[int, Any, int, int]],
    token_ids: np.ndarray,
    bits: np.ndarray,
    scale: np.ndarray,
  ) -> None:
    """Puts passages together in arrays that are 0 where it is padded."""
    columns = [('bits', bits)]
    if scale.size:
      columns.append(('scale', scale))
    # Pointers of all passages, followed together: shard by shard.
    pointers, pointed_slots, pointed_places = [], [], []
    for slot, shard, start, length in located:
      views = shard.views
      width = token_ids.itemsize
      ids = np.frombuffer(
        views['token_ids'][start * width : (start + length) * width],
        token_ids.dtype,
      )
      token_ids[slot, :length] = ids
      entries = self._places.take(ids, mode='clip')
      entries[ids >= len(self._places)] = -1
      shared = entries >= 0
      first = start // 8
      flags = views['merged'][first : (start + length + 7) // 8]
      merged = np.unpackbits(np.frombuffer(flags, np.uint8)).astype(bool)
      merged = merged[start - 8 * first :][:length]
      own = ~(shared | merged)
      position = passage_ids[slot] % self.layout.passages_per_shard
      vectors = shard.vector_starts[position]
      count = int(np.count_nonzero(own))
      for name, target in columns:
        size = target.shape[-1]
        rows = np.frombuffer(
          views[name][vectors * size : (vectors + count) * size], np.uint8
        )
        if rows.size != count * size:
          raise self._corrupt([passage_ids[slot]])
        target[slot, :length][own] = rows.reshape(count, size)
        target[slot, :length][shared] = self._codebook[name][entries[shared]]
      places = np.flatnonzero(merged)
      if len(places):
        array = self.manifest.array('pointers')
        at = shard.pointer_starts[position] * array.row_bytes
        raw = views['pointers'][at : at + len(places) * array.row_bytes]
        pointers.append(np.frombuffer(raw, array.dtype))
        pointed_slots.append(np.full(len(places), slot))
        pointed_places.append(places)
    if pointers:
      self._follow(
        np.concatenate(pointers).astype(np.int64),
        np.concatenate(pointed_slots),
        np.concatenate(pointed_places),
        columns,
        passage_ids,
      )

  def _follow(
    self,
    pointers: np.ndarray,
    slots: np.ndarray,
    places: np.ndarray,
    columns: Sequence[tuple[str, np.ndarray]],
    passage_ids: list[int],
  ) -> None:
    """Copies the vectors that merged tokens went into."""
    wrong = pointers >= self._vector_starts[-1]
    if wrong.any():
      raise self._corrupt([passage_ids[slot] for slot in slots[wrong]])
    found = np.searchsorted(self._vector_starts, pointers, 'right') - 1
    order = np.argsort(pointers, kind='stable')
    indexes, starts = np.unique(found[order], return_index=True)
    stops = [*starts[1:], len(order)]
    advised = False
    before = store.clock()
    for index, start, stop in zip(indexes, starts, stops, strict=True):
      chosen = order[start:stop]
      views = self._shards[int(index)].views
      rows = pointers[chosen] - self._vector_starts[index]
      for name, target in columns:
        size = target.shape[-1]
        vectors = np.frombuffer(views[name], np.uint8).reshape(-1, size)
        target[slots[chosen], places[chosen]] = vectors[rows]
      if not advised:
        now = store.clock()
        if now - before > store.DISK_NANOSECONDS:
          self._advise_vectors(pointers[order[stop:]], columns)
          advised = True
        before = now

  def _advise_vectors(
    self, pointers: np.ndarray, columns: Sequence[tuple[str, np.ndarray]]
  ) -> None:
    """Asks for single vectors, wherever they are."""
    found = np.searchsorted(self._vector_starts, pointers, 'right') - 1
    rows = pointers - self._vector_starts[found]
    for index, row in zip(found.tolist(), rows.tolist(), strict=True):
      views = self._shards[index].views
      for name, target in columns:
        size = target.shape[-1]
        flat.will_need(views[name], row * size, (row + 1) * size)

  def _fetch(self, passage_ids: list[int]) -> None:
    """Which pages a passage needs shows while it is read: so read it."""
    self._advise_offsets(passage_ids)
    located = self._locate(passage_ids, self.layout.max_length)[0]
    width = np.dtype(self.layout.token_dtype).itemsize
    for _, shard, start, length in located:
      stop = start + length
      flat.will_need(shard.views['token_ids'], start * width, stop * width)
      flat.will_need(shard.views['merged'], start // 8, stop // 8 + 1)
    self.lookup(passage_ids, self.layout.max_length)
