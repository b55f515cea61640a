"""Reads the cache that is to be compressed, row by row in long runs."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib

import numpy as np

from btr_jax.cache import arrays, flat, opening
from btr_jax.cache.errors import CacheIncompleteError
from btr_jax.cache.layout import ArrayLayout
from btr_jax.cache.manifest import COMPLETE, read_manifest

_BLOCK_ROWS = 1 << 15


def read_flat(
  path: pathlib.Path, array: ArrayLayout, start: int, stop: int
) -> np.ndarray:
  """Rows [start, stop) of a flat shard file.

  Read, not mapped: what has been worked off leaves the process's memory.
  """
  count = (stop - start) * (1 if array.width is None else array.width)
  if not count:
    return np.zeros((stop - start, *array.row_shape), array.dtype)
  found = np.fromfile(path, array.dtype, count, offset=start * array.row_bytes)
  return found.reshape(stop - start, *array.row_shape)


class Source:
  """An uncompressed cache, complete and sound."""

  def __init__(self, path: pathlib.Path):
    """Opens it.

    Raises:
      FileNotFoundError, CacheCorruptError, CacheIncompleteError: as when a
        cache is opened for reading.
    """
    self.path = path
    self.manifest = read_manifest(path)
    self.layout = self.manifest.layout
    if self.manifest.status != COMPLETE:
      raise CacheIncompleteError(
        f'The cache {path} is not finished; finish its build first.'
      )
    opening.check_sizes(path, self.manifest)
    self._flat: set[tuple[str, int]] = set()

  def check(self, shard: int) -> None:
    """Reads a shard's files; CacheCorruptError unless they are as written."""
    entry = self.manifest.shards[shard]
    opening.check_hashes(self.path, self.layout, entry)
    for array in self.layout.arrays:
      rows = self.layout.rows_of(array, shard, entry.rows)
      file = self.path / array.file_name(shard)
      if rows and flat.map_shard(file, array, rows) is not None:
        self._flat.add((array.name, shard))

  def tokens(self, shard: int) -> int:
    return self.manifest.shards[shard].rows

  def rows(self, name: str, shard: int, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of one array of a shard that was checked."""
    array = self.layout.array(name)
    if array is None:  # a codec without scale
      return np.zeros((stop - start, 0), np.uint8)
    if start == stop or (name, shard) in self._flat:
      file = self.path / array.file_name(shard)
      return read_flat(file, array, start, stop)
    first = shard * array.rows_per_shard
    store = arrays.open_array(self.path, self.layout, array)
    return store[first + start : first + stop].read().result()

  def passages(self, name: str, shard: int) -> np.ndarray:
    """An array over the shard's passages."""
    start, stop = self.layout.passage_range(shard)
    return self.rows(name, shard, 0, stop - start)

  def blocks(
    self, shard: int
  ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """First row, token ids, bits and scale of runs of a shard's tokens."""
    rows = self.tokens(shard)
    for start in range(0, rows, _BLOCK_ROWS):
      stop = min(start + _BLOCK_ROWS, rows)
      yield (
        start,
        *(
          self.rows(name, shard, start, stop)
          for name in ('token_ids', 'bits', 'scale')
        ),
      )
