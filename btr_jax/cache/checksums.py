"""A checksum per passage, so that a look-up can check what it returns.

The sum of a passage's 8-byte words, each times an odd key of its place, modulo
2^64. An odd key loses nothing: damage within one word always changes the sum.
Damage to several words is missed once in about 2^64. It is no signature:
whoever wants to deceive can. Unlike a hash of the shard it costs the look-up
microseconds, for it runs over many passages at a time.
"""

from __future__ import annotations

import functools

from jaxtyping import Integer, Shaped, UInt8, UInt16, UInt64
import numpy as np

# Not 0, so that a file of zeros does not pass for empty passages.
EMPTY_CHECKSUM = 0x9E3779B97F4A7C15
# A padded passage of such a length is whole words, whatever a token's bytes.
LENGTH_MULTIPLE = 8

_BLOCK_PASSAGES = 512


@functools.lru_cache(64)
def _keys(array: int, words: int) -> np.ndarray:
  """Odd keys of an array's words (splitmix64, so that they are frozen)."""
  z = np.arange(1, words + 1, dtype=np.uint64) + np.uint64(array << 40)
  z *= np.uint64(0x9E3779B97F4A7C15)
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def padded_length(length: int) -> int:
  """The length to pad passages to before `of_padded`."""
  return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def of_padded(
  token_ids: Integer[np.ndarray, 'passages length'],
  bits: UInt8[np.ndarray, 'passages length bits_bytes'],
  scale: UInt8[np.ndarray, 'passages length scale_bytes'],
) -> UInt64[np.ndarray, 'passages']:
  """Checksums of passages that are padded on the right with 0.

  Args:
    token_ids: in the type in which they are stored, C-contiguous like the
      others; the length is a multiple of LENGTH_MULTIPLE and does not matter
      otherwise.
    bits: packed bits.
    scale: scale bytes; possibly none.

  Returns:
    uint64 [passages]; EMPTY_CHECKSUM for a passage without tokens.
  """
  count = len(token_ids)
  total = np.full(count, EMPTY_CHECKSUM, np.uint64)
  for number, array in enumerate((token_ids, bits, scale)):
    if array.size:
      words = array.reshape(count, -1).view('<u8')
      size = words.shape[1]
      # Powers of two, so that few lengths are kept.
      keys = _keys(number, 1 << (size - 1).bit_length())[:size]
      total += np.einsum('ij,j->i', words, keys)
  return total


def of_rows(
  lengths: UInt16[np.ndarray, 'passages'],
  token_ids: Shaped[np.ndarray, 'rows'],
  bits: UInt8[np.ndarray, 'rows bits_bytes'],
  scale: UInt8[np.ndarray, 'rows scale_bytes'],
) -> UInt64[np.ndarray, 'passages']:
  """Checksums of passages whose rows follow one another without padding."""
  result = np.zeros(len(lengths), np.uint64)
  start = 0
  for first in range(0, len(lengths), _BLOCK_PASSAGES):
    block = lengths[first : first + _BLOCK_PASSAGES].tolist()
    shape = (len(block), padded_length(max(block)))
    padded = [
      np.zeros(shape + rows.shape[1:], rows.dtype)
      for rows in (token_ids, bits, scale)
    ]
    for place, length in enumerate(block):
      for target, rows in zip(padded, (token_ids, bits, scale), strict=True):
        target[place, :length] = rows[start : start + length]
      start += length
    result[first : first + len(block)] = of_padded(*padded)
  return result
