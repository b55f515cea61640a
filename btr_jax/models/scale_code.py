"""A token's scale as two bytes or as one.

Two bytes hold a bfloat16 number, at most 0.2 % off. One byte holds its
logarithm, in equal steps: at one bit for each of 768 dimensions the second
byte is a hundredth of the cache. The range of the byte is fixed, because codec
and cache know of no corpus; what lies outside gets its nearest end.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from btr_jax import config as config_lib
from btr_jax.models import straight_through

_LARGEST_BYTE = 255.0


@dataclasses.dataclass(frozen=True)
class LogByte:
  """A positive number as one byte: code c stands for 2^(lowest + c / steps).

  Attributes:
    steps: codes per doubling of the number.
    lowest: logarithm to base 2 of the number that code 0 stands for.
  """

  steps: float
  lowest: float

  @property
  def num_bytes(self) -> int:
    return 1

  @property
  def limits(self) -> tuple[float, float]:
    """The smallest and the largest number there is a code for."""
    return 2.0**self.lowest, 2.0 ** (self.lowest + _LARGEST_BYTE / self.steps)

  @property
  def relative_error(self) -> float:
    """The most that rounding changes a number between the limits, relative."""
    return 2.0 ** (0.5 / self.steps) - 1.0

  def to_bytes(
    self, values: Float[Array, '*tokens values']
  ) -> UInt8[Array, '*tokens values']:
    """A byte for each value."""
    positive = jnp.maximum(values.astype(jnp.float32), self.limits[0])
    code = jnp.round((jnp.log2(positive) - self.lowest) * self.steps)
    return jnp.clip(code, 0.0, _LARGEST_BYTE).astype(jnp.uint8)

  def from_bytes(
    self, raw: UInt8[Array, '*tokens values']
  ) -> Float[Array, '*tokens values']:
    """The number that each byte stands for, float32."""
    return jnp.exp2(raw.astype(jnp.float32) / self.steps + self.lowest)

  def round(
    self, values: Float[Array, '*tokens values']
  ) -> Float[Array, '*tokens values']:
    """What the bytes will hold; backward the identity."""
    rounded = self.from_bytes(self.to_bytes(values)).astype(values.dtype)
    return values + jax.lax.stop_gradient(rounded - values)


class Bfloat16:
  """A number as the two bytes of a bfloat16, little-endian."""

  num_bytes = 2

  def to_bytes(
    self, values: Float[Array, '*tokens values']
  ) -> UInt8[Array, '*tokens bytes']:
    """Two bytes for each value."""
    raw = jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint8)
    return raw.reshape(raw.shape[:-2] + (-1,))

  def from_bytes(
    self, raw: UInt8[Array, '*tokens bytes']
  ) -> Float[Array, '*tokens values']:
    """The numbers, float32."""
    raw = raw.reshape(raw.shape[:-1] + (-1, self.num_bytes))
    values = jax.lax.bitcast_convert_type(raw, jnp.bfloat16)
    return values.astype(jnp.float32)

  def round(
    self, values: Float[Array, '*tokens values']
  ) -> Float[Array, '*tokens values']:
    """What the bytes will hold; backward the identity."""
    return straight_through.round_to_bfloat16(values)


# Of the root mean square of a token's state, and of its square. From 0.5 to
# 31,000, because pretrained readers have tokens a hundred times as large as all
# others: in Flan-T5-small most have 40 to 60 at the split, and one or two in a
# hundred 5,000 (docs/cache.md).
RMS_BYTE = LogByte(steps=16.0, lowest=-1.0)
VARIANCE_BYTE = LogByte(steps=RMS_BYTE.steps / 2, lowest=2 * RMS_BYTE.lowest)


def of_rms(codec: config_lib.CodecConfig) -> LogByte | Bfloat16:
  """How the codec stores a root mean square."""
  return RMS_BYTE if codec.scale_bits == 8 else Bfloat16()


def of_variance(codec: config_lib.CodecConfig) -> LogByte | Bfloat16:
  """How the codec stores a variance."""
  return VARIANCE_BYTE if codec.scale_bits == 8 else Bfloat16()
