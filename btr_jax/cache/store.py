"""Reads a cache: opens it, checks whose it is, looks passages up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import resource
import threading
from typing import Any

from jaxtyping import Int32, Integer, UInt8
import numpy as np
import tensorstore as ts

from btr_jax.cache import arrays, flat
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheIncompleteError,
  CacheMismatchError,
  find_differences,
)
from btr_jax.cache.layout import ArrayLayout, CacheLayout


@dataclasses.dataclass(frozen=True)
class PassageRows:
  """Passages as the reader wants them: padded on the right with 0."""

  token_ids: Int32[np.ndarray, '*batch length']
  bits: UInt8[np.ndarray, '*batch length bits_bytes']
  scale: UInt8[np.ndarray, '*batch length scale_bytes']


class _TensorStoreBytes:
  """Bytes of a shard that cannot be mapped; slices like a memoryview."""

  def __init__(self, store: ts.TensorStore, first_row: int, row_bytes: int):
    self._store = store
    self._first_row = first_row
    self._row_bytes = row_bytes

  def __getitem__(self, wanted: slice) -> memoryview:
    start = self._first_row + wanted.start // self._row_bytes
    stop = self._first_row + wanted.stop // self._row_bytes
    rows = self._store[start:stop].read().result()
    return memoryview(np.ascontiguousarray(rows)).cast('B')


class _Shard:
  """The arrays of one shard, sliced by bytes; None where it has none.

  Bytes and memoryview rather than numpy: a slice costs a third, and slices
  are what the look-up of short passages spends its time on.
  """

  __slots__ = ('bits', 'scale', 'token_ids', 'starts', 'lengths')


class CacheStore:
  """A finished cache, open for reading. Look-ups may come from any thread."""

  def __init__(
    self, path: pathlib.Path, manifest: manifests.Manifest, max_shards: int
  ):
    self.path = path
    self.manifest = manifest
    self._max_shards = max_shards
    self._shards: dict[int, _Shard] = {}
    self._known_flat: set[tuple[str, int]] = set()
    self._loading = threading.Lock()

  @classmethod
  def open(
    cls,
    path: str | pathlib.Path,
    expected: Mapping[str, str] | None = None,
    *,
    max_open_shards: int | None = None,
  ) -> CacheStore:
    """Opens a cache; no data is read.

    Args:
      path: its folder.
      expected: fingerprints that it must have; those not named are not
        compared. None accepts any cache.
      max_open_shards: shards mapped at one time. None takes what the limit of
        open files allows.

    Raises:
      FileNotFoundError: there is no cache.
      CacheIncompleteError: its build has not finished.
      CacheMismatchError: it belongs to another model, codec, tokenizer or
        corpus; lists field, expected and found.
      CacheCorruptError: the manifest is damaged, or a shard file is missing or
        has another size than the ledger says.
    """
    path = pathlib.Path(path)
    manifest = manifests.read_manifest(path)
    if manifest.status != manifests.COMPLETE:
      raise CacheIncompleteError(
        f'The cache {path} is not finished. Start the same build again: it '
        'goes on where it stopped.'
      )
    differences = find_differences(expected or {}, manifest.fingerprints)
    if differences:
      raise CacheMismatchError(
        path,
        differences,
        'Build a cache with this reader, or open it with the one it is of.',
      )
    _check_sizes(path, manifest)
    if max_open_shards is None:
      max_open_shards = _default_open_shards(len(manifest.layout.arrays))
    return cls(path, manifest, max_open_shards)

  @property
  def layout(self) -> CacheLayout:
    return self.manifest.layout

  @property
  def num_passages(self) -> int:
    return self.layout.num_passages

  def lengths(
    self, passage_ids: Integer[np.ndarray, '*batch'] | Sequence[Any]
  ) -> Int32[np.ndarray, '*batch']:
    """Tokens of each passage, 0 for id -1; IndexError as in lookup."""
    passage_ids = self._check_ids(passage_ids)
    found = np.zeros(passage_ids.size, np.int32)
    for slot, passage in enumerate(passage_ids.ravel().tolist()):
      if passage >= 0:
        shard, position = divmod(passage, self.layout.passages_per_shard)
        found[slot] = self._shard(shard).lengths[position]
    return found.reshape(passage_ids.shape)

  def lookup(
    self,
    passage_ids: Integer[np.ndarray, '*batch'] | Sequence[Any],
    passage_length: int,
  ) -> PassageRows:
    """Looks passages up.

    Args:
      passage_ids: integers of any shape; -1 stands for an empty passage.
      passage_length: tokens to pad every passage to.

    Returns:
      PassageRows of passage_ids.shape + [passage_length, ...]: token_ids
      int32, bits and scale uint8 as the codec packed them, 0 where padded.

    Raises:
      IndexError: an id is not in the corpus; names it.
      ValueError: a passage is longer than passage_length; names it. Half a
        passage would be read without a word otherwise.
    """
    passage_ids = self._check_ids(passage_ids)
    layout = self.layout
    count = passage_ids.size
    token_ids = np.zeros((count, passage_length), layout.token_dtype)
    bits = np.zeros((count, passage_length, layout.bits_bytes), np.uint8)
    scale = np.zeros((count, passage_length, layout.scale_bytes), np.uint8)
    if count:
      self._copy(passage_ids.ravel().tolist(), token_ids, bits, scale)
    shape = passage_ids.shape
    return PassageRows(
      token_ids.astype(np.int32).reshape(*shape, passage_length),
      bits.reshape(*shape, passage_length, layout.bits_bytes),
      scale.reshape(*shape, passage_length, layout.scale_bytes),
    )

  def _copy(
    self,
    passage_ids: list[int],
    token_ids: np.ndarray,
    bits: np.ndarray,
    scale: np.ndarray,
  ) -> None:
    """Copies the passages' bytes into arrays of zeros."""
    passage_length = token_ids.shape[1]
    per_shard = self.layout.passages_per_shard
    shards = self._shards
    id_width = token_ids.itemsize
    bits_width = bits.shape[-1]
    scale_width = scale.shape[-1]
    ids_out = memoryview(token_ids).cast('B')
    bits_out = memoryview(bits).cast('B')
    scale_out = memoryview(scale).cast('B') if scale_width else None
    for slot, passage in enumerate(passage_ids):
      if passage < 0:
        continue
      index, position = divmod(passage, per_shard)
      shard = shards.get(index) or self._shard(index)
      length = shard.lengths[position]
      if not length:
        continue
      if length > passage_length:
        raise ValueError(
          f'Passage {passage} has {length} tokens; passage_length is '
          f'{passage_length}. Pass at least {length} (lengths() tells).'
        )
      start = shard.starts[position]
      stop = start + length
      to = slot * passage_length
      end = to + length
      bits_out[to * bits_width : end * bits_width] = shard.bits[
        start * bits_width : stop * bits_width
      ]
      ids_out[to * id_width : end * id_width] = shard.token_ids[
        start * id_width : stop * id_width
      ]
      if scale_width:
        scale_out[to * scale_width : end * scale_width] = shard.scale[
          start * scale_width : stop * scale_width
        ]

  def _check_ids(self, passage_ids: Any) -> np.ndarray:
    passage_ids = np.asarray(passage_ids)
    if not passage_ids.size:
      return passage_ids.astype(np.int64)
    if passage_ids.dtype.kind not in 'iu':
      raise IndexError(
        f'Passage ids must be integers; got {passage_ids.dtype}.'
      )
    if passage_ids.min() < -1 or passage_ids.max() >= self.num_passages:
      wrong = (passage_ids < -1) | (passage_ids >= self.num_passages)
      raise IndexError(
        f'Passage {passage_ids[wrong][0]} is not in the cache {self.path}; '
        f'its passages are 0 to {self.num_passages - 1}, and -1 stands for '
        'none. Does the retriever search the corpus of this cache?'
      )
    return passage_ids

  def _shard(self, index: int) -> _Shard:
    shard = self._shards.get(index)
    if shard is not None:
      return shard
    with self._loading:
      if index in self._shards:
        return self._shards[index]
      shard = self._load(index)
      while len(self._shards) >= self._max_shards:
        # The oldest goes; a look-up that holds it keeps its maps alive.
        del self._shards[next(iter(self._shards))]
      self._shards[index] = shard
    return shard

  def _load(self, index: int) -> _Shard:
    rows = self.manifest.shards[index].rows
    shard = _Shard()
    shard.bits = self._bytes('bits', index, rows)
    shard.scale = self._bytes('scale', index, rows)
    shard.token_ids = self._bytes('token_ids', index, rows)
    shard.starts = self._integers('passage_starts', index)
    shard.lengths = self._integers('passage_lengths', index)
    return shard

  def _bytes(
    self, name: str, index: int, token_rows: int
  ) -> memoryview | _TensorStoreBytes | None:
    array = self.layout.array(name)
    if array is None:
      return None
    rows = self.layout.rows_of(array, index, token_rows)
    if not rows:
      return None
    file = self.path / array.file_name(index)
    known = (name, index) in self._known_flat
    mapped = flat.map_shard(file, array, rows, check=not known)
    if mapped is None:
      store = arrays.open_array(self.path, self.layout, array)
      first_row = index * array.rows_per_shard
      return _TensorStoreBytes(store, first_row, array.row_bytes)
    self._known_flat.add((name, index))
    return mapped

  def _integers(self, name: str, index: int) -> memoryview:
    """An array over the shard's passages; indexing gives Python integers."""
    array = self.layout.array(name)
    start, stop = self.layout.passage_range(index)
    rows = self._bytes(name, index, 0)[0 : (stop - start) * array.row_bytes]
    # Native order: shards are little-endian, as all machines are that JAX
    # runs on.
    return rows.cast(np.dtype(array.dtype).char)


def _default_open_shards(num_arrays: int) -> int:
  """Each mapped file holds a descriptor: use at most half of the limit."""
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  if limit == resource.RLIM_INFINITY:
    limit = 2**16
  return max(1, limit // 2 // num_arrays)


def _check_sizes(path: pathlib.Path, manifest: manifests.Manifest) -> None:
  layout = manifest.layout
  found = [shard.index for shard in manifest.shards]
  if found != list(range(layout.num_shards)):
    raise CacheCorruptError(
      f'The ledger of {path} lists {len(found)} shards; expected '
      f'{layout.num_shards} in order. Remove the cache and build it '
      'again.'
    )
  for shard in manifest.shards:
    for array in layout.arrays:
      entry = shard.files.get(array.name)
      if entry is not None:
        _check_size(path, layout, array, shard.index, entry.bytes)


def _check_size(
  path: pathlib.Path,
  layout: CacheLayout,
  array: ArrayLayout,
  shard: int,
  expected: int,
) -> None:
  file = path / array.file_name(shard)
  try:
    size: int | None = file.stat().st_size
  except FileNotFoundError:
    size = None
  if size != expected:
    start, stop = layout.passage_range(shard)
    state = 'is missing' if size is None else f'has {size} bytes'
    raise CacheCorruptError(
      f'{file} {state}; expected {expected} bytes (shard {shard}, passages '
      f'{start} to {stop - 1}). Start the same build again: it writes what is '
      'damaged.'
    )
