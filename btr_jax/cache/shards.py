"""The shards of a cache, opened when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import pathlib
import resource
import threading
from typing import Any, Generic, TypeVar

import numpy as np
import tensorstore as ts

from btr_jax.cache import arrays, flat
from btr_jax.cache.layout import ArrayLayout, CacheLayout

_Shard = TypeVar('_Shard')


class StoredRows:
  """Rows of a shard that cannot be mapped: TensorStore reads them."""

  def __init__(self, store: ts.TensorStore, first_row: int):
    self._store = store
    self._first_row = first_row

  def read(self, start: int, stop: int) -> ts.Future:
    """Begins to read rows [start, stop) of the shard."""
    first = self._first_row
    return self._store[first + start : first + stop].read()


def copy_stored(pieces: Sequence[tuple[Any, int, int, Any, int, int]]) -> None:
  """Copies rows that TensorStore reads; all are asked for before the first.

  Args:
    pieces: target (bytes), row in it, bytes of a row, source, first row and
      number of rows; a source that is mapped is copied from.
  """
  reading = [
    source.read(start, start + count)
    if isinstance(source, StoredRows)
    else None
    for _, _, _, source, start, count in pieces
  ]
  for piece, future in zip(pieces, reading, strict=True):
    target, to, width, source, start, count = piece
    if future is None:
      found = source[start * width : (start + count) * width]
    else:
      found = memoryview(np.ascontiguousarray(future.result())).cast('B')
    target[to * width : (to + count) * width] = found


class ShardFiles:
  """Opens arrays of shards: mapped where they are local and flat."""

  def __init__(
    self, folder: pathlib.Path | str, layout: CacheLayout, cache_bytes: int
  ):
    """Opens nothing yet.

    Args:
      folder: of the cache, or its URL.
      layout: of the cache.
      cache_bytes: that TensorStore may keep of what it has read.
    """
    self._folder = folder
    self._layout = layout
    self._known_flat: set[tuple[str, int]] = set()
    self._stores: dict[str, ts.TensorStore] = {}
    self._context = ts.Context(
      {'cache_pool': {'total_bytes_limit': cache_bytes}}
    )

  def rows(
    self, array: ArrayLayout, shard: int, rows: int
  ) -> memoryview | StoredRows | None:
    """The rows of one array of a shard; None where there are none."""
    if not rows:
      return None
    if not arrays.is_remote(self._folder):
      file = pathlib.Path(self._folder) / array.file_name(shard)
      known = (array.name, shard) in self._known_flat
      mapped = flat.map_shard(file, array, rows, check=not known)
      if mapped is not None:
        self._known_flat.add((array.name, shard))
        return mapped
    if array.name not in self._stores:
      self._stores[array.name] = arrays.open_array(
        self._folder, self._layout, array, context=self._context
      )
    return StoredRows(self._stores[array.name], shard * array.rows_per_shard)

  def integers(self, array: ArrayLayout, shard: int, rows: int) -> Any:
    """Rows of an array of numbers; indexing gives Python integers.

    Shards are little-endian, as all machines are that JAX runs on.
    """
    found = self.rows(array, shard, rows)
    if isinstance(found, StoredRows):
      values = np.ascontiguousarray(found.read(0, rows).result())
      return memoryview(values)
    if found is None:
      return memoryview(np.zeros(0, array.dtype))
    return found.cast(np.dtype(array.dtype).char)


class OpenShards(Generic[_Shard]):
  """At most so many shards at a time; the one opened first goes first."""

  def __init__(self, load: Callable[[int], _Shard], limit: int):
    self._load = load
    self._limit = limit
    self._shards: dict[int, _Shard] = {}
    self._loading = threading.Lock()
    self.find = self._shards.get

  def __getitem__(self, index: int) -> _Shard:
    """The shard; whoever holds it keeps its maps alive. Any thread may ask."""
    shard = self._shards.get(index)
    if shard is not None:
      return shard
    with self._loading:
      if index in self._shards:
        return self._shards[index]
      shard = self._load(index)
      while len(self._shards) >= self._limit:
        del self._shards[next(iter(self._shards))]
      self._shards[index] = shard
    return shard


def default_open_shards(num_shards: int, num_arrays: int) -> int:
  """How many shards may be mapped: each mapped file holds a descriptor.

  Takes at most half of the descriptors that the process may have. Where that
  is too few for the cache, the soft limit is raised towards the hard one, as
  the Go runtime does at its start: mapping shards anew for every question would
  take longer than reading them.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = 2 * num_shards * num_arrays
  if soft != resource.RLIM_INFINITY and soft < wanted:
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
      resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
      soft = most
    except (ValueError, OSError):
      pass  # not allowed here; fewer shards then
  if soft == resource.RLIM_INFINITY:
    soft = 2**20
  return max(1, soft // 2 // num_arrays)
