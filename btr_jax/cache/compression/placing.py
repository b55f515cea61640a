"""The last two passes: what remains is written in the order of the tokens."""

from __future__ import annotations

import os
import pathlib
import shutil

from jaxtyping import Integer
import numpy as np
import tensorstore as ts

from btr_jax.cache import arrays as arrays_lib
from btr_jax.cache import checksums, files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.compression import format as format_lib
from btr_jax.cache.compression.grouping import Grouping, vector_record
from btr_jax.cache.compression.records import RecordFiles
from btr_jax.cache.compression.source import Source, read_flat
from btr_jax.cache.layout import ArrayLayout

_BLOCK_PASSAGES = 4096


class Placing:
  """Writes the shards of a compressed cache."""

  def __init__(
    self,
    source: Source,
    folder: pathlib.Path,
    work: pathlib.Path,
    grouping: Grouping,
    codebook: np.ndarray,
    num_ids: int,
  ):
    """Creates the arrays.

    Args:
      source: the cache that is compressed.
      folder: where the result grows.
      work: folder for temporary files.
      grouping: after its matching.
      codebook: the shared vectors.
      num_ids: above every token id.
    """
    layout = source.layout
    self._source = source
    self._folder = folder
    self._grouping = grouping
    self._codebook = codebook
    self._entry_of = np.full(num_ids, -1, np.int64)
    self._entry_of[codebook['token_id']] = np.arange(len(codebook))
    sizes = layout.bits_bytes, layout.scale_bytes
    fields = vector_record(*sizes).descr
    # The vector comes along with the pointer, for the passage's checksum.
    pointed = np.dtype([('pointer', '<u8'), *fields])
    self._pointed = RecordFiles(work, 'pointed', pointed)
    self._vectors = 0
    self._rows: dict[int, int] = {}
    self.arrays = format_lib.array_layouts(layout)
    self._stores = {
      array.name: arrays_lib.open_array(folder, layout, array, create=True)
      for array in self.arrays
    }
    files.write_atomic(folder / arrays_lib.GROUP_NAME, arrays_lib.GROUP_CONTENT)

  def place(self, shard: int) -> None:
    """Writes the vectors that the shard keeps."""
    own = self._is_own(shard)
    rank = np.cumsum(own) - 1
    first = shard * self._source.layout.rows_per_shard
    count = int(own.sum())
    content = {
      'bits': np.zeros((count, self._source.layout.bits_bytes), np.uint8),
      'scale': np.zeros((count, self._source.layout.scale_bytes), np.uint8),
      'sizes': np.ones(count, np.uint8),
    }
    at = 0
    for start, ids, bits, scale in self._source.blocks(shard):
      keep = own[start : start + len(ids)]
      stop = at + int(keep.sum())
      content['bits'][at:stop] = bits[keep]
      content['scale'][at:stop] = scale[keep]
      at = stop
    changed = self._grouping.vectors.read(shard)
    places = rank[changed['row'].astype(np.int64) - first]
    content['bits'][places] = changed['bits']
    content['scale'][places] = changed['scale']
    content['sizes'][places] = changed['size']
    self._write(shard, content)
    merges = self._grouping.merges.read(shard)
    places = rank[merges['into'].astype(np.int64) - first]
    pointed = np.empty(len(merges), self._pointed.dtype)
    pointed['row'] = merges['row']
    pointed['pointer'] = self._vectors + places
    pointed['size'] = content['sizes'][places]
    pointed['bits'] = content['bits'][places]
    pointed['scale'] = content['scale'][places]
    rows_per_shard = self._source.layout.rows_per_shard
    self._pointed.append(merges['row'] // rows_per_shard, pointed)
    self._grouping.merges.remove(shard)
    self._grouping.vectors.remove(shard)
    self._rows[shard] = count
    self._vectors += count

  def point(self, shard: int) -> tuple[format_lib.ShardEntry, np.ndarray]:
    """Writes the rest of the shard: pointers, flags, checksums.

    Returns:
      Its entry, and how many tokens are shared, merged and own.
    """
    layout = self._source.layout
    own = self._is_own(shard)
    merged = np.zeros(len(own), bool)
    pointed = self._pointed.read(shard)
    pointed = pointed[np.argsort(pointed['row'])]
    first = shard * layout.rows_per_shard
    merged[pointed['row'].astype(np.int64) - first] = True
    starts = self._source.passages('passage_starts', shard)
    content = {
      'merged': np.packbits(merged),
      'pointers': pointed['pointer'],
      'vector_starts': _count_before(own, starts),
      'pointer_starts': _count_before(merged, starts),
      'passage_checksums': self._checksums(shard, own, merged, pointed),
    }
    self._write(shard, content)
    for name in format_lib.COPIED:
      file = layout.array(name).file_name(shard)
      if (self._source.path / file).exists():
        shutil.copyfile(self._source.path / file, self._folder / file)
        _sync(self._folder / file)
    self._pointed.remove(shard)
    self._grouping.gone.remove(shard)
    passages = len(starts)
    rows = {
      'tokens': len(own),
      'vectors': self._rows[shard],
      'pointers': len(pointed),
      'passages': passages,
    }
    entries = {
      array.name: manifests.FileEntry.of(self._folder / array.file_name(shard))
      for array in self.arrays
      if (self._folder / array.file_name(shard)).exists()
    }
    kinds = [len(own) - int(own.sum()) - len(pointed), len(pointed)]
    return (
      format_lib.ShardEntry(shard, rows, entries),
      np.array([*kinds, int(own.sum())]),
    )

  def other_files(self) -> dict[str, manifests.FileEntry]:
    """Entries of the codebook and of zarr's own files."""
    names = [format_lib.CODEBOOK_NAME, arrays_lib.GROUP_NAME]
    names += [f'{array.name}/zarr.json' for array in self.arrays]
    for name in names:
      _sync(self._folder / name)
    return {name: manifests.FileEntry.of(self._folder / name) for name in names}

  def _is_own(self, shard: int) -> np.ndarray:
    """bool [tokens]: whether a token keeps a vector of its own."""
    ids = self._source.rows('token_ids', shard, 0, self._source.tokens(shard))
    own = self._entry_of[ids] < 0
    gone = self._grouping.gone.read(shard).astype(np.int64)
    own[gone - shard * self._source.layout.rows_per_shard] = False
    return own

  def _checksums(
    self, shard: int, own: np.ndarray, merged: np.ndarray, pointed: np.ndarray
  ) -> np.ndarray:
    """Of the passages as look-ups will return them, block by block."""
    source = self._source
    starts = source.passages('passage_starts', shard).astype(np.int64)
    lengths = source.passages('passage_lengths', shard)
    vectors = pointers = 0
    found = []
    for first in range(0, len(starts), _BLOCK_PASSAGES):
      block = slice(first, first + _BLOCK_PASSAGES)
      start = int(starts[block][0])
      stop = int(starts[block][-1]) + int(lengths[block][-1])
      ids = source.rows('token_ids', shard, start, stop)
      is_own, is_merged = own[start:stop], merged[start:stop]
      shared = ~(is_own | is_merged)
      next_vector = vectors + int(is_own.sum())
      next_pointer = pointers + int(is_merged.sum())
      columns = []
      for name in ('bits', 'scale'):
        rows = np.zeros((len(ids), pointed[name].shape[1]), np.uint8)
        array = next((a for a in self.arrays if a.name == name), None)
        if array is not None:
          file = self._folder / array.file_name(shard)
          rows[is_own] = read_flat(file, array, vectors, next_vector)
          rows[is_merged] = pointed[name][pointers:next_pointer]
          rows[shared] = self._codebook[name][self._entry_of[ids[shared]]]
        columns.append(rows)
      found.append(checksums.of_rows(lengths[block], ids, *columns))
      vectors, pointers = next_vector, next_pointer
    return np.concatenate(found)

  def _write(self, shard: int, content: dict[str, np.ndarray]) -> None:
    """Writes a shard of several arrays; TensorStore syncs and renames."""
    with ts.Transaction() as transaction:
      for array in self.arrays:
        if array.name in content:
          rows = content[array.name].astype(array.dtype, copy=False)
          _stage(self._stores[array.name], transaction, array, shard, rows)


def _stage(
  store: ts.TensorStore,
  transaction: ts.Transaction,
  array: ArrayLayout,
  shard: int,
  rows: np.ndarray,
) -> None:
  """Puts rows, padded to whole chunks, into the transaction."""
  if not len(rows):
    return
  padded = np.zeros((array.padded_rows(len(rows)), *rows.shape[1:]), rows.dtype)
  padded[: len(rows)] = rows
  first = shard * array.rows_per_shard
  store.with_transaction(transaction)[first : first + len(padded)] = padded


def _count_before(
  flags: np.ndarray, starts: Integer[np.ndarray, 'passages']
) -> np.ndarray:
  """How many flags are set before each start."""
  before = np.concatenate([[0], np.cumsum(flags)])
  return before[starts].astype(np.uint32)


def _sync(path: pathlib.Path) -> None:
  with open(path, 'rb+') as file:
    os.fsync(file.fileno())
