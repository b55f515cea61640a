"""Codes as vectors of levels: what is compared and averaged when merging.

One bit is a sign, -1 or 1. More bits are a level, an odd integer from
-(2^bits - 1) to 2^bits - 1 (`models/levels.py`), the first in the highest bits.
All arithmetic here is that of integers, the same in any order.
"""

from __future__ import annotations

from jaxtyping import Float, Int64, Integer, UInt8
import numpy as np


def unpack(
  packed: UInt8[np.ndarray, 'tokens bytes'], level_bits: int
) -> Integer[np.ndarray, 'tokens values']:
  """Bytes to levels, int16."""
  if level_bits == 8:
    return packed.astype(np.int16) * 2 - 255
  single = np.unpackbits(packed, axis=1)
  if level_bits == 1:
    return single.astype(np.int16) * 2 - 1
  width = single.shape[1] // level_bits
  single = single.reshape(len(packed), width, level_bits)
  codes = np.zeros(single.shape[:2], np.int16)
  for place in range(level_bits):
    codes = codes * 2 + single[..., place]
  return codes * 2 - (2**level_bits - 1)


def pack(
  levels: Integer[np.ndarray, 'tokens values'], level_bits: int
) -> UInt8[np.ndarray, 'tokens bytes']:
  """The inverse of `unpack`."""
  codes = ((levels + (2**level_bits - 1)) // 2).astype(np.uint8)
  if level_bits == 8:
    return codes
  places = np.arange(level_bits - 1, -1, -1, dtype=np.uint8)
  single = codes[..., None] >> places & 1
  width = levels.shape[1] * level_bits
  return np.packbits(single.reshape(len(codes), width), axis=1)


def comparable(
  packed: UInt8[np.ndarray, 'tokens bytes'], level_bits: int
) -> Float[np.ndarray, 'tokens values']:
  """Levels in the floats whose products and sums are exact integers."""
  dtype = np.float64 if level_bits == 8 else np.float32
  return unpack(packed, level_bits).astype(dtype)


def mean(
  sums: Int64[np.ndarray, 'tokens values'],
  sizes: Int64[np.ndarray, 'tokens'],
  level_bits: int,
  own: Integer[np.ndarray, 'tokens values'] | None = None,
) -> UInt8[np.ndarray, 'tokens bytes']:
  """The level nearest to the mean of several; of signs the majority.

  Args:
    sums: of the levels.
    sizes: how many each is the sum of.
    level_bits: of a level.
    own: levels that settle a tie, on whose side it falls; None: the lower.
  """
  steps, rest = np.divmod(sums, 2 * sizes[:, None])
  levels = 2 * steps + 1
  lower = rest == 0  # Half-way between this level and the one below it.
  if own is not None:
    lower &= own < 2 * steps
  levels = levels - 2 * lower
  largest = 2**level_bits - 1
  return pack(np.clip(levels, -largest, largest), level_bits)
