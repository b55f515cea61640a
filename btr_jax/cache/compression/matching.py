"""Bipartite soft matching of the bits of one token id (paper, Algorithm 1)."""

from __future__ import annotations

import dataclasses

from jaxtyping import Int64, UInt8
import numpy as np

from btr_jax.cache.compression import vectors
from btr_jax.cache.compression.scales import ScaleFormat

# Occurrences that one vector may stand for: its size is one byte.
MAX_SIZE = 255
# Similarities that are in memory at a time: 64 MB of float32.
_SIMILARITIES = 2**24


@dataclasses.dataclass(frozen=True)
class Merged:
  """What became of the occurrences of one token id.

  Attributes:
    gone: int64 [gone], occurrences that were merged into another.
    into: int64 [gone], the occurrence that each was merged into.
    kept: int64 [kept], the distinct ones of `into`.
    bits: uint8 [kept, bits_bytes], their bits after the merge.
    scale: uint8 [kept, scale_bytes].
    sizes: int64 [kept], occurrences that each stands for, itself included.
  """

  gone: Int64[np.ndarray, 'gone']
  into: Int64[np.ndarray, 'gone']
  kept: Int64[np.ndarray, 'kept']
  bits: UInt8[np.ndarray, 'kept bits_bytes']
  scale: UInt8[np.ndarray, 'kept scale_bytes']
  sizes: Int64[np.ndarray, 'kept']


def nearest(
  left: UInt8[np.ndarray, 'left bits_bytes'],
  right: UInt8[np.ndarray, 'right bits_bytes'],
  level_bits: int = 1,
) -> tuple[Int64[np.ndarray, 'left'], Int64[np.ndarray, 'left']]:
  """The row of `right` that is nearest to each row of `left`, and how near.

  Distances are a quarter of the squared ones between levels, an integer; for
  signs that is the Hamming distance. They come from a matrix product, whose
  sums are exact and the same in any order; for signs BLAS takes half the time
  of XOR and bitwise_count in NumPy.

  Returns:
    Index, the first of equals; and distance.
  """
  index = np.zeros(len(left), np.int64)
  distance = np.zeros(len(left), np.int64)
  others = vectors.comparable(right, level_bits)
  squares = np.square(others).sum(axis=1)
  step = max(1, _SIMILARITIES // len(right))
  for start in range(0, len(left), step):
    rows = vectors.comparable(left[start : start + step], level_bits)
    nearness = 2 * (rows @ others.T) - squares
    best = nearness.argmax(axis=1)
    index[start : start + step] = best
    found = np.take_along_axis(nearness, best[:, None], axis=1)[:, 0]
    squared = np.square(rows).sum(axis=1) - found
    distance[start : start + step] = squared.astype(np.int64) // 4
  return index, distance


def _rank_among_equals(
  values: Int64[np.ndarray, 'values'],
) -> Int64[np.ndarray, 'values']:
  """How many equal values stand before each."""
  order = np.argsort(values, kind='stable')
  ordered = values[order]
  rank = np.empty_like(order)
  rank[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
  return rank


def merge(
  bits: UInt8[np.ndarray, 'occurrences bits_bytes'],
  scale: UInt8[np.ndarray, 'occurrences scale_bytes'],
  count: int,
  scale_format: ScaleFormat,
) -> Merged:
  """Merges `count` occurrences into others, the nearest pairs first.

  Alternate occurrences form two sets; each of the first finds its nearest in
  the second; the `count` nearest pairs are merged. Several may go into one, but
  no more than MAX_SIZE - 1: the next nearest pairs take the place of others.
  A merged bit is the majority over all that went in, the bit of the occurrence
  that stays where they are equal; a level of more bits is the nearest to their
  mean; a merged scale is their mean.

  Args:
    bits: in the order of the corpus.
    scale: beside them.
    count: how many shall go; at most half of the occurrences do.
    scale_format: of the codec.

  Returns:
    What became of them; the same for the same input, always.
  """
  first = np.arange(0, len(bits), 2)
  second = np.arange(1, len(bits), 2)
  count = min(count, len(second))
  if not count:
    none = np.zeros(0, np.int64)
    return Merged(none, none, none, bits[:0], scale[:0], none)
  level_bits = scale_format.level_bits
  index, distance = nearest(bits[first], bits[second], level_bits)
  by_distance = np.argsort(distance, kind='stable')
  admitted = _rank_among_equals(index[by_distance]) < MAX_SIZE - 1
  chosen = np.sort(by_distance[admitted][:count])
  order = chosen[np.argsort(index[chosen], kind='stable')]
  gone, into = first[order], second[index[order]]
  kept, starts, merged_in = np.unique(
    into, return_index=True, return_counts=True
  )
  own = vectors.unpack(bits[kept], level_bits)
  sums = own + np.add.reduceat(
    vectors.unpack(bits[gone], level_bits), starts, axis=0, dtype=np.int64
  )
  sizes = merged_in + 1
  values = scale_format.decode(scale)
  total = values[kept] + np.add.reduceat(values[gone], starts, axis=0)
  return Merged(
    gone=gone,
    into=into,
    kept=kept,
    bits=vectors.mean(sums, sizes, level_bits, own),
    scale=scale_format.encode(total / sizes[:, None]),
    sizes=sizes,
  )
