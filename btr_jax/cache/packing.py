"""Signs to bits and back, in numpy.

Bit order is that of `np.packbits` (big-endian: dimension 0 is the highest bit
of byte 0), which `jnp.packbits` shares, so that bits packed on the device and
here are the same bytes.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Float32, Shaped, UInt8
import numpy as np


def pack_signs(
  values: Float[np.ndarray, '*batch dims'] | Bool[np.ndarray, '*batch dims'],
) -> UInt8[np.ndarray, '*batch bytes']:
  """Packs one bit per value: 1 where the value is true or above zero.

  Args:
    values: bool or floating [..., dims]; dims a multiple of 8.

  Returns:
    uint8 [..., dims / 8].

  Raises:
    ValueError: dims is not a multiple of 8.
  """
  if values.shape[-1] % 8:
    raise ValueError(
      f'pack_signs got {values.shape[-1]} dimensions; expected a multiple of '
      '8. Pad them, or choose a codec.num_bits that is a multiple of 8.'
    )
  return np.packbits(values > 0, axis=-1)


def unpack_bits(
  packed: UInt8[np.ndarray, '*batch bytes'],
) -> Bool[np.ndarray, '*batch dims']:
  """The bits of `packed`: bool [..., 8 * bytes]."""
  return np.unpackbits(packed, axis=-1).astype(bool)


def unpack_signs(
  packed: UInt8[np.ndarray, '*batch bytes'],
) -> Float32[np.ndarray, '*batch dims']:
  """The bits of `packed` as -1 and +1: float32 [..., 8 * bytes]."""
  return np.unpackbits(packed, axis=-1).astype(np.float32) * 2 - 1


def narrow_token_ids(
  token_ids: Shaped[np.ndarray, '*batch'], dtype: str
) -> Shaped[np.ndarray, '*batch']:
  """Casts token ids to the dtype in which the cache stores them.

  Args:
    token_ids: integers of any width.
    dtype: 'uint16' or 'int32'.

  Raises:
    ValueError: an id is negative or does not fit; nothing is cut off silently.
  """
  if token_ids.size:
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high > np.iinfo(dtype).max:
      raise ValueError(
        f'Token ids from {low} to {high} do not fit {dtype}, the type planned '
        'for them. Plan the cache with the vocab_size of the tokenizer.'
      )
  return token_ids.astype(dtype)
