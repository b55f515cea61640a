"""Quantizers with straight-through gradients.

Forward they quantize; backward they pass a gradient as if they had not (or,
for the sign, as if they were tanh), so that what feeds them can be trained.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

# Eight-bit logarithmic code of a positive number: steps of 2^(1/16), from
# 2^-8 to 2^7.94. Relative error at most 2.2 %.
_LOG_STEPS = 16.0
_LOG_ZERO = 128.0


def sign(values: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """+1 where positive, else -1; backward the derivative of tanh.

  BTR section 3.1: hard values forward, 1 - tanh(x)^2 backward, no annealing.
  """
  hard = jnp.where(values > 0, 1.0, -1.0).astype(values.dtype)
  soft = jnp.tanh(values)
  return soft + jax.lax.stop_gradient(hard - soft)


def round_to_bfloat16(
  values: Float[Array, '*shape'],
) -> Float[Array, '*shape']:
  """Rounds to what the cache's two bytes hold; backward the identity."""
  rounded = values.astype(jnp.bfloat16).astype(values.dtype)
  return values + jax.lax.stop_gradient(rounded - values)


def log_code(values: Float[Array, '*shape']) -> UInt8[Array, '*shape']:
  """One byte for a positive number, in steps of 2^(1/16)."""
  logarithm = jnp.log2(jnp.maximum(values, 2.0**-8)) * _LOG_STEPS
  code = jnp.clip(jnp.round(logarithm) + _LOG_ZERO, 0, 255)
  return code.astype(jnp.uint8)


def log_decode(codes: UInt8[Array, '*shape']) -> Float[Array, '*shape']:
  """The inverse of `log_code`, float32."""
  return jnp.exp2((codes.astype(jnp.float32) - _LOG_ZERO) / _LOG_STEPS)


def round_to_log_code(
  values: Float[Array, '*shape'],
) -> Float[Array, '*shape']:
  """Rounds to what one byte holds; backward the identity."""
  rounded = log_decode(log_code(values)).astype(values.dtype)
  return values + jax.lax.stop_gradient(rounded - values)
