"""Quantizers with straight-through gradients.

Forward they quantize; backward they pass a gradient as if they had not (or,
for the sign, as if they were tanh), so that what feeds them can be trained.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

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


def annealed_beta(
  step: Int[Array, ''] | int, train_steps: int, last_beta: float
) -> Float[Array, '']:
  """The steepness of `annealed_sign` at a step: 1 at 0, then growing.

  Its square grows linearly, as in BPR (Yamada et al. 2021), whose
  sqrt(1 + gamma step) this is with gamma = (last_beta^2 - 1) / train_steps.

  Args:
    step: updates done.
    train_steps: updates in all; from there on it is last_beta.
    last_beta: more than 1.
  """
  done = jnp.clip(jnp.asarray(step, jnp.float32) / train_steps, 0.0, 1.0)
  return jnp.sqrt(1.0 + done * (last_beta**2 - 1.0))


def annealed_sign(
  values: Float[Array, '*shape'], beta: Float[Array, ''] | float
) -> Float[Array, '*shape']:
  """tanh(beta x), forward and backward: soft until beta is large.

  HashNet (Cao et al. 2017) and BPR train so; BTR section 3.1 does not.
  """
  return jnp.tanh(values * beta)


def binarize(
  values: Float[Array, '*shape'], beta: Float[Array, ''] | float | None = None
) -> Float[Array, '*shape']:
  """`annealed_sign` where there is a beta, else `sign`."""
  return sign(values) if beta is None else annealed_sign(values, beta)


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
