"""Where every byte of a cache lies: arrays, shards, chunks, file sizes.

A cache is a zarr v3 group. Tokens of all passages are concatenated, without
padding; shard s holds passages [s N, (s + 1) N) in rows [s R, s R + rows_s) of
every token array. A shard is one file: its rows one after the other, then the
index that zarr's `sharding_indexed` codec wants. So the same file is a zarr
shard to TensorStore and zarr-python, and a flat packed array to `mmap`.

R = N * max_length and the chunk sizes depend on nothing that the corpus could
change, so that a longer corpus leaves the full shards as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

TOKENS = 'tokens'
PASSAGES = 'passages'

_MIN_CHUNK_ROWS = 64
_MAX_CHUNK_BYTES = 16 * 1024
_PASSAGE_CHUNK = 1024
_INDEX_ENTRY_BYTES = 16  # offset and length, two little-endian uint64
_INDEX_CHECKSUM_BYTES = 4


def round_up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple


def choose_chunk_rows(row_bytes: int, rows_per_shard: int) -> int:
  """Rows of one inner chunk: the power of two that wastes the fewest bytes.

  A shard pays 16 index bytes per chunk and half a chunk of padding at its end;
  the sum is least near sqrt(32 rows / row_bytes). A reader without mmap
  fetches whole chunks, hence the ceiling of 16 KiB.
  """
  best = math.sqrt(32 * rows_per_shard / row_bytes)
  ceiling = max(_MIN_CHUNK_ROWS, _MAX_CHUNK_BYTES // row_bytes)
  wanted = min(max(best, _MIN_CHUNK_ROWS), ceiling)
  return 2 ** int(math.log2(wanted))


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
  """One array of the cache.

  Attributes:
    name: folder of the array inside the cache.
    per: `tokens` or `passages`, what a row stands for.
    dtype: numpy's name of the element type.
    width: elements in a row; None for an array of rank 1.
    rows_per_shard: rows from the start of one shard to that of the next.
    chunk_rows: rows of an inner chunk; divides rows_per_shard.
  """

  name: str
  per: str
  dtype: str
  width: int | None
  rows_per_shard: int
  chunk_rows: int

  @property
  def row_shape(self) -> tuple[int, ...]:
    return () if self.width is None else (self.width,)

  @property
  def row_bytes(self) -> int:
    return np.dtype(self.dtype).itemsize * math.prod(self.row_shape)

  @property
  def index_bytes(self) -> int:
    chunks = self.rows_per_shard // self.chunk_rows
    return _INDEX_ENTRY_BYTES * chunks + _INDEX_CHECKSUM_BYTES

  def padded_rows(self, rows: int) -> int:
    """Rows in the file of a shard of `rows` rows: whole chunks."""
    return round_up(rows, self.chunk_rows)

  def file_bytes(self, rows: int) -> int:
    """Size of the file of a shard; 0 without rows, when there is no file."""
    if not rows:
      return 0
    return self.padded_rows(rows) * self.row_bytes + self.index_bytes

  def file_name(self, shard: int) -> str:
    """The shard's file, relative to the cache."""
    suffix = '' if self.width is None else '.0'
    return f'{self.name}/c.{shard}{suffix}'

  def expected_index(self, rows: int) -> np.ndarray:
    """The index of a flat shard: uint64 [chunks, 2] of offset and length."""
    chunks = self.rows_per_shard // self.chunk_rows
    chunk_bytes = self.chunk_rows * self.row_bytes
    index = np.full((chunks, 2), np.iinfo(np.uint64).max, '<u8')
    used = self.padded_rows(rows) // self.chunk_rows
    index[:used, 0] = np.arange(used, dtype=np.uint64) * chunk_bytes
    index[:used, 1] = chunk_bytes
    return index


@dataclasses.dataclass(frozen=True)
class CacheLayout:
  """Everything about a cache's shape that must be known to read it.

  Attributes:
    codec_kind: name of the token codec whose bytes these are.
    bits_bytes: packed bytes per token.
    scale_bytes: bytes of scale per token; 0 for a codec without.
    token_dtype: uint16, or int32 for vocabularies above 65,536.
    max_length: the longest passage that the layout admits, in tokens.
    passages_per_shard: N.
    rows_per_shard: R.
    num_passages: passages in the corpus.
    num_tokens: their tokens.
    lengths_sha256: of the passages' lengths as uint16; two corpora of other
      lengths never share a cache by accident.
    arrays: one ArrayLayout per array.
  """

  codec_kind: str
  bits_bytes: int
  scale_bytes: int
  token_dtype: str
  max_length: int
  passages_per_shard: int
  rows_per_shard: int
  num_passages: int
  num_tokens: int
  lengths_sha256: str
  arrays: tuple[ArrayLayout, ...]

  @property
  def num_shards(self) -> int:
    return -(-self.num_passages // self.passages_per_shard)

  def array(self, name: str) -> ArrayLayout | None:
    """The array of that name, or None (a codec without scale has none)."""
    return next((array for array in self.arrays if array.name == name), None)

  def passage_range(self, shard: int) -> tuple[int, int]:
    """First passage of the shard and the one after its last."""
    start = shard * self.passages_per_shard
    return start, min(start + self.passages_per_shard, self.num_passages)

  def rows_of(self, array: ArrayLayout, shard: int, token_rows: int) -> int:
    """Rows of `array` in the shard, which holds `token_rows` tokens."""
    if array.per == TOKENS:
      return token_rows
    start, stop = self.passage_range(shard)
    return stop - start

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self) | {
      'arrays': [dataclasses.asdict(array) for array in self.arrays]
    }

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> CacheLayout:
    """The inverse of to_dict; TypeError or KeyError on foreign fields."""
    arrays = tuple(ArrayLayout(**array) for array in values['arrays'])
    return cls(**(dict(values) | {'arrays': arrays}))


def make_layout(
  *,
  codec_kind: str,
  bits_bytes: int,
  scale_bytes: int,
  vocab_size: int,
  max_length: int,
  passages_per_shard: int,
  num_passages: int,
  num_tokens: int,
  lengths_sha256: str,
) -> CacheLayout:
  """Lays out the arrays of a cache.

  Raises:
    ValueError: a size is out of range; names it and what is admitted.
  """
  for name, value, least, most in (
    ('bits_bytes', bits_bytes, 1, 2**20),
    ('scale_bytes', scale_bytes, 0, 2**20),
    ('vocab_size', vocab_size, 1, 2**31),
    ('max_length', max_length, 1, 2**16 - 1),
    ('num_passages', num_passages, 1, 2**40),
    ('passages_per_shard', passages_per_shard, 1, 2**24),
  ):
    if not least <= value <= most:
      raise ValueError(f'{name} is {value}; expected {least} to {most}.')
  if passages_per_shard > 2 * _PASSAGE_CHUNK and (
    passages_per_shard % _PASSAGE_CHUNK
  ):
    raise ValueError(
      f'passages_per_shard is {passages_per_shard}; above {2 * _PASSAGE_CHUNK} '
      f'it must be a multiple of {_PASSAGE_CHUNK}, for example '
      f'{round_up(passages_per_shard, _PASSAGE_CHUNK)}.'
    )
  token_dtype = 'uint16' if vocab_size <= 2**16 else 'int32'
  token_arrays = [
    ('bits', 'uint8', bits_bytes),
    ('token_ids', token_dtype, None),
  ]
  if scale_bytes:
    token_arrays.insert(1, ('scale', 'uint8', scale_bytes))
  wanted_rows = passages_per_shard * max_length
  chunk_rows = {
    name: choose_chunk_rows(
      np.dtype(dtype).itemsize * (width or 1), wanted_rows
    )
    for name, dtype, width in token_arrays
  }
  rows_per_shard = round_up(wanted_rows, max(chunk_rows.values()))
  if rows_per_shard >= 2**32:
    raise ValueError(
      f'A shard of {passages_per_shard} passages of {max_length} tokens has '
      f'{rows_per_shard} rows; expected fewer than 2**32. Lower '
      'passages_per_shard.'
    )
  arrays = [
    ArrayLayout(name, TOKENS, dtype, width, rows_per_shard, chunk_rows[name])
    for name, dtype, width in token_arrays
  ]
  passage_chunk = (
    passages_per_shard
    if passages_per_shard <= 2 * _PASSAGE_CHUNK
    else _PASSAGE_CHUNK
  )
  arrays += [
    ArrayLayout(name, PASSAGES, dtype, None, passages_per_shard, passage_chunk)
    for name, dtype in (
      ('passage_starts', 'uint32'),
      ('passage_lengths', 'uint16'),
      ('passage_checksums', 'uint64'),
    )
  ]
  return CacheLayout(
    codec_kind=codec_kind,
    bits_bytes=bits_bytes,
    scale_bytes=scale_bytes,
    token_dtype=token_dtype,
    max_length=max_length,
    passages_per_shard=passages_per_shard,
    rows_per_shard=rows_per_shard,
    num_passages=num_passages,
    num_tokens=num_tokens,
    lengths_sha256=lengths_sha256,
    arrays=tuple(arrays),
  )
