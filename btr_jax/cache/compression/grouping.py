"""The first two passes: tokens to their ids, ids to what is merged.

Tokens are grouped by their id on disk: buckets of ids, each small enough for
memory. An id that is too frequent for that has a bucket of its own, which is
read block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import pathlib

from jaxtyping import Int64
import numpy as np

from btr_jax.cache.compression import format as format_lib
from btr_jax.cache.compression import matching, vectors
from btr_jax.cache.compression.records import RecordFiles
from btr_jax.cache.compression.scales import ScaleFormat
from btr_jax.cache.compression.source import Source

# Of the memory allowed, what one bucket takes: it is there twice while it is
# sorted, and beside it stand its results.
_BUCKETS_IN_MEMORY = 4


def token_record(bits_bytes: int, scale_bytes: int) -> np.dtype:
  """A token in its bucket; `row` counts through all shards."""
  return np.dtype(
    [
      ('row', '<u8'),
      ('token_id', '<u4'),
      ('bits', 'u1', (bits_bytes,)),
      ('scale', 'u1', (scale_bytes,)),
    ]
  )


def vector_record(bits_bytes: int, scale_bytes: int) -> np.dtype:
  """A vector that others were merged into, at the row of its own token."""
  return np.dtype(
    [
      ('row', '<u8'),
      ('size', 'u1'),
      ('bits', 'u1', (bits_bytes,)),
      ('scale', 'u1', (scale_bytes,)),
    ]
  )


# Rows that went, rows they went into, rows that changed, and how.
_Result = tuple[np.ndarray, np.ndarray, np.ndarray, matching.Merged]
MERGE_RECORD = np.dtype([('row', '<u8'), ('into', '<u8')])


def assign_buckets(
  counts: Int64[np.ndarray, 'ids'], limit: int
) -> Int64[np.ndarray, 'ids']:
  """A bucket for every id: runs of ids with at most `limit` tokens each.

  An id with more tokens is alone in its bucket; ids without tokens get -1.
  """
  buckets = np.full(len(counts), -1, np.int64)
  bucket = held = 0
  for token_id in np.flatnonzero(counts).tolist():
    count = int(counts[token_id])
    if held and held + count > limit:
      bucket, held = bucket + 1, 0
    buckets[token_id] = bucket
    held += count
  return buckets


class SharedVectors:
  """Sums over the occurrences of stop words, for one vector each."""

  def __init__(self, source: Source, stop_ids: Int64[np.ndarray, 'stop']):
    layout = source.layout
    self._format = ScaleFormat(layout.codec_kind, layout.scale_bytes)
    self._type = format_lib.codebook_type(layout)
    self._ids = stop_ids
    values = 8 * layout.bits_bytes // self._format.level_bits
    self._sums = np.zeros((len(stop_ids), values), np.int64)
    self._sizes = np.zeros(len(stop_ids), np.int64)
    self._scales = self._format.decode(
      np.zeros((len(stop_ids), layout.scale_bytes), np.uint8)
    )

  def add(
    self,
    places: Int64[np.ndarray, 'tokens'],
    bits: np.ndarray,
    scale: np.ndarray,
  ) -> None:
    """Adds tokens; `places` says which of the stop ids each one is."""
    if not len(places):
      return
    order = np.argsort(places, kind='stable')
    found, starts, counts = np.unique(
      places[order], return_index=True, return_counts=True
    )
    self._sizes[found] += counts
    levels = vectors.unpack(bits[order], self._format.level_bits)
    self._sums[found] += np.add.reduceat(levels, starts, axis=0, dtype=np.int64)
    values = self._format.decode(scale[order])
    self._scales[found] += np.add.reduceat(values, starts, axis=0)

  def codebook(self) -> np.ndarray:
    """One entry per id that occurs: the level next to the mean."""
    seen = self._sizes > 0
    sizes = self._sizes[seen]
    entries = np.zeros(len(sizes), self._type)
    entries['token_id'] = self._ids[seen]
    entries['size'] = sizes
    entries['bits'] = vectors.mean(
      self._sums[seen], sizes, self._format.level_bits
    )
    entries['scale'] = self._format.encode(self._scales[seen] / sizes[:, None])
    return entries


class Grouping:
  """Tokens in buckets by id, then what the matching makes of them."""

  def __init__(
    self,
    source: Source,
    work: pathlib.Path,
    settings: format_lib.Settings,
    counts: Int64[np.ndarray, 'ids'],
    memory_bytes: int,
  ):
    """Plans the buckets.

    Args:
      source: the cache.
      work: folder for temporary files.
      settings: ratio and block size.
      counts: occurrences of each id that may be merged; 0 for stop words.
      memory_bytes: for a bucket and its results.
    """
    layout = source.layout
    sizes = layout.bits_bytes, layout.scale_bytes
    self._format = ScaleFormat(layout.codec_kind, layout.scale_bytes)
    self._settings = settings
    self._counts = counts
    self._rows_per_shard = layout.rows_per_shard
    self._tokens = RecordFiles(work, 'tokens', token_record(*sizes))
    limit = memory_bytes // _BUCKETS_IN_MEMORY // self._tokens.dtype.itemsize
    self._limit = max(limit, settings.block_size)
    self._buckets = assign_buckets(counts, self._limit)
    self.merges = RecordFiles(work, 'merges', MERGE_RECORD)
    self.gone = RecordFiles(work, 'gone', np.dtype('<u8'))
    self.vectors = RecordFiles(work, 'vectors', vector_record(*sizes))

  def add(
    self,
    rows: Int64[np.ndarray, 'tokens'],
    token_ids: np.ndarray,
    bits: np.ndarray,
    scale: np.ndarray,
  ) -> None:
    """Puts tokens into their buckets."""
    records = np.empty(len(rows), self._tokens.dtype)
    records['row'] = rows
    records['token_id'] = token_ids
    records['bits'] = bits
    records['scale'] = scale
    self._tokens.append(self._buckets[token_ids], records)

  def match(self, progress: Callable[[int], None]) -> None:
    """Merges within every id; results go to `merges`, `gone`, `vectors`.

    Args:
      progress: called with the number of tokens that were worked off.
    """
    results: list[_Result] = []
    held = 0
    for bucket in range(int(self._buckets.max(initial=-1)) + 1):
      for group, count in self._groups(bucket):
        merged = matching.merge(
          group['bits'], group['scale'], count, self._format
        )
        # Copies, not views: these would hold the whole bucket in memory.
        rows = group['row'].astype(np.int64)
        gone, into, kept = (
          rows[places] for places in (merged.gone, merged.into, merged.kept)
        )
        results.append((gone, into, kept, merged))
        held += len(gone)
        if held > self._limit // _BUCKETS_IN_MEMORY:
          self._write(results)
          results, held = [], 0
        progress(len(group))
      self._tokens.remove(bucket)
    self._write(results)

  def _groups(self, bucket: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of occurrences of one id, and how many of each shall go."""
    ids = np.flatnonzero(self._buckets == bucket)
    blocks = [
      _block_sizes(int(count), self._settings) for count in self._counts[ids]
    ]
    if len(ids) == 1:
      sizes = [size for size, _ in blocks[0]]
      pieces = self._tokens.pieces(bucket, sizes)
      for piece, (_, count) in zip(pieces, blocks[0], strict=True):
        yield piece, count
      return
    records = self._tokens.read(bucket)
    order = np.argsort(records['token_id'], kind='stable')
    start = 0
    for size, count in (block for of_id in blocks for block in of_id):
      yield records[order[start : start + size]], count
      start += size

  def _write(self, results: list[_Result]) -> None:
    if not results:
      return
    gone, into, kept = (
      np.concatenate([result[place] for result in results])
      for place in range(3)
    )
    merges = np.empty(len(gone), MERGE_RECORD)
    merges['row'], merges['into'] = gone, into
    self.gone.append(gone // self._rows_per_shard, gone)
    self.merges.append(into // self._rows_per_shard, merges)
    vectors = np.empty(len(kept), self.vectors.dtype)
    vectors['row'] = kept
    for field, name in (
      ('size', 'sizes'),
      ('bits', 'bits'),
      ('scale', 'scale'),
    ):
      parts = [getattr(result[3], name) for result in results]
      vectors[field] = np.concatenate(parts)
    self.vectors.append(kept // self._rows_per_shard, vectors)


def _block_sizes(
  count: int, settings: format_lib.Settings
) -> list[tuple[int, int]]:
  """Blocks of nearly equal size, and how many of each to merge.

  The numbers to merge add up to the ratio of all, rounded down.
  """
  blocks = -(-count // settings.block_size)
  edges = [count * i // blocks for i in range(blocks + 1)]
  merged = [int(edge * settings.ratio) for edge in edges]
  return [
    (edges[i + 1] - edges[i], merged[i + 1] - merged[i]) for i in range(blocks)
  ]
