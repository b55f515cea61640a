"""Bipartite soft matching of the bits of one token id (paper, Algorithm 1)."""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float64, Int64, UInt8
import numpy as np

from btr_jax.cache.compression.scales import ScaleFormat
from btr_jax.cache.packing import unpack_signs

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


def majority(
  sums: Float64[np.ndarray, 'tokens dims'],
  ties: Bool[np.ndarray, 'tokens dims'] | None = None,
) -> UInt8[np.ndarray, 'tokens bits_bytes']:
  """Packs the signs of sums of +-1; where a sum is 0 the bit of `ties` (0)."""
  signs = sums > 0
  if ties is not None:
    signs |= (sums == 0) & ties
  return np.packbits(signs, axis=-1)


def nearest(
  left: UInt8[np.ndarray, 'left bits_bytes'],
  right: UInt8[np.ndarray, 'right bits_bytes'],
) -> tuple[Int64[np.ndarray, 'left'], Int64[np.ndarray, 'left']]:
  """The row of `right` that is nearest to each row of `left`, and how near.

  By a matrix product of +-1: dims - 2 * Hamming distance. Its sums are
  integers far below 2^24, hence exact in float32 and the same in any order,
  and BLAS takes half the time of XOR and bitwise_count in NumPy.

  Returns:
    Index, the first of equals; and Hamming distance.
  """
  index = np.zeros(len(left), np.int64)
  distance = np.zeros(len(left), np.int64)
  signs = unpack_signs(right).T
  dims = signs.shape[0]
  step = max(1, _SIMILARITIES // len(right))
  for start in range(0, len(left), step):
    product = unpack_signs(left[start : start + step]) @ signs
    best = product.argmax(axis=1)
    index[start : start + step] = best
    similarity = np.take_along_axis(product, best[:, None], axis=1)[:, 0]
    distance[start : start + step] = (dims - similarity.astype(np.int64)) // 2
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
  that stays where they are equal; a merged scale is their mean.

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
  index, distance = nearest(bits[first], bits[second])
  by_distance = np.argsort(distance, kind='stable')
  admitted = _rank_among_equals(index[by_distance]) < MAX_SIZE - 1
  chosen = np.sort(by_distance[admitted][:count])
  order = chosen[np.argsort(index[chosen], kind='stable')]
  gone, into = first[order], second[index[order]]
  kept, starts, merged_in = np.unique(
    into, return_index=True, return_counts=True
  )
  own = np.unpackbits(bits[kept], axis=1).astype(bool)
  ones = own + np.add.reduceat(
    np.unpackbits(bits[gone], axis=1), starts, axis=0, dtype=np.int64
  )
  sizes = merged_in + 1
  values = scale_format.decode(scale)
  total = values[kept] + np.add.reduceat(values[gone], starts, axis=0)
  return Merged(
    gone=gone,
    into=into,
    kept=kept,
    bits=majority((2 * ones - sizes[:, None]).astype(np.float64), own),
    scale=scale_format.encode(total / sizes[:, None]),
    sizes=sizes,
  )
