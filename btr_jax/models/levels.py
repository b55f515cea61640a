"""Numbers as levels of one, two, four or eight bits, and as bytes.

A level is an odd integer from -(2^bits - 1) to 2^bits - 1, so that one bit is
a sign and zero is no level: a direction always says which side it is on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from btr_jax.models import straight_through

# Half of the step between levels that loses least of a normal variable, as a
# share of its mean absolute value (Max, Quantizing for minimum distortion,
# 1960, and numerically for eight bits); one bit stands for that mean itself.
HALF_STEP = {1: 1.0, 2: 0.6240, 4: 0.2101, 8: 0.0193}


def quantize(
  values: Float[Array, '*shape'],
  bits: int,
  beta: Float[Array, ''] | None = None,
) -> Float[Array, '*shape']:
  """The nearest level; backward the identity between the outermost levels.

  For one bit this is the sign, with the derivative of tanh.

  Args:
    values: in half steps.
    bits: of a level.
    beta: of an annealed sign, for one bit only; None for a hard one.

  Raises:
    ValueError: beta for more bits.
  """
  if bits == 1:
    return straight_through.binarize(values, beta)
  if beta is not None:
    raise ValueError(
      f'bits is {bits} with a beta; expected 1: tanh anneals to a sign.'
    )
  largest = 2.0**bits - 1.0
  clipped = jnp.clip(values, -largest, largest)
  level = 2.0 * jnp.floor(values / 2.0) + 1.0
  level = jnp.clip(level, -largest, largest)
  return clipped + jax.lax.stop_gradient(level - clipped)


def pack(
  levels: Float[Array, '*tokens values'], bits: int
) -> UInt8[Array, '*tokens bytes']:
  """Levels as bytes, the first one in the highest bits."""
  code = ((levels + (2.0**bits - 1.0)) / 2.0).astype(jnp.uint8)
  places = jnp.arange(bits - 1, -1, -1, dtype=jnp.uint8)
  places = places.reshape((1,) * levels.ndim + (bits,))
  single = (code[..., None] >> places) & 1
  single = single.reshape(levels.shape[:-1] + (levels.shape[-1] * bits,))
  return jnp.packbits(single, axis=-1)


def unpack(
  packed: UInt8[Array, '*tokens bytes'], bits: int
) -> Float[Array, '*tokens values']:
  """The inverse of `pack`, float32."""
  if bits == 1:
    return 2.0 * jnp.unpackbits(packed, axis=-1).astype(jnp.float32) - 1.0
  # On the way of every question: a byte's levels by shifts.
  places = jnp.arange(8 - bits, -1, -bits, dtype=jnp.uint8)
  places = places.reshape((1,) * packed.ndim + (-1,))
  codes = (packed[..., None] >> places) & jnp.uint8(2**bits - 1)
  codes = codes.reshape(packed.shape[:-1] + (packed.shape[-1] * 8 // bits,))
  return 2.0 * codes.astype(jnp.float32) - (2.0**bits - 1.0)
