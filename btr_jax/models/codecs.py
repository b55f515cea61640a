"""Token codecs, one interface (`token_codec.py`), and which one is meant.

float       bfloat16 values: DeFormer's cache, and the reference.
sign        plain sign of the states; what the paper shows to fail.
calibrated  the paper's: sign after the next block's norm, and the token's
            variance, from which the scale is recovered.
residual    ours: signs of the rotated residual to what the token id predicts
            (`residual_codec.py`).
"""

from __future__ import annotations

from flax import linen as nn
import jax.numpy as jnp

from btr_jax import axes
from btr_jax import config as config_lib
from btr_jax.models import layers, scale_code, straight_through
from btr_jax.models.residual_codec import ResidualCodec
from btr_jax.models.token_codec import PackedCode, TokenCode, TokenCodec

# The norm's weight divides in the calibrated codec's scale recovery.
_SMALLEST_NORM_SCALE = 1e-3
_BFLOAT16 = scale_code.Bfloat16()


def _pack_signs(values):
  return jnp.packbits(values > 0, axis=-1)


def _unpack_signs(bits):
  signs = jnp.unpackbits(bits, axis=-1).astype(jnp.float32)
  return signs * 2.0 - 1.0


def _normed(states, norm_scale):
  """What the norm of the first upper layer makes of the states."""
  normed = states.astype(jnp.float32) / layers.root_mean_square(states)
  return normed * layers.over_last_axis(norm_scale, normed)


class FloatCodec(TokenCodec):
  """bfloat16 states: no bits, 16 times the bytes of one bit per dimension."""

  def encode(self, states, token_ids, norm_scale, beta=None):
    del token_ids, norm_scale, beta
    states = states.astype(jnp.float32)
    nothing = jnp.zeros(states.shape[:-1] + (0,), jnp.float32)
    return TokenCode(straight_through.round_to_bfloat16(states), nothing)

  def decode(self, code, token_ids, norm_scale):
    del token_ids, norm_scale
    return code.values

  def recovery_error(self, code, states, token_ids, norm_scale):
    del token_ids, norm_scale
    rms = layers.root_mean_square(states)
    return jnp.mean(jnp.square((code.values - states) / rms), axis=-1)

  def pack(self, code):
    nothing = jnp.zeros(code.values.shape[:-1] + (0,), jnp.uint8)
    return PackedCode(_BFLOAT16.to_bytes(code.values), nothing)

  def unpack(self, packed):
    values = _BFLOAT16.from_bytes(packed.bits)
    nothing = jnp.zeros(values.shape[:-1] + (0,), jnp.float32)
    return TokenCode(values, nothing)


class _RecoveryHead(nn.Module):
  """The linear layer that guesses the state from its bits, in training."""

  embed_dim: int

  def setup(self):
    self.kernel = layers.param_with_axes(
      'kernel',
      nn.initializers.variance_scaling(1.0, 'fan_in', 'normal'),
      (self.embed_dim, self.embed_dim),
      jnp.float32,
      axes=(axes.BITS, axes.EMBED),
      module=self,
    )
    self.bias = layers.param_with_axes(
      'bias',
      nn.initializers.zeros,
      (self.embed_dim,),
      jnp.float32,
      axes=(axes.EMBED,),
      module=self,
    )

  def __call__(self, values):
    projected = jnp.dot(values, self.kernel)
    return projected + layers.over_last_axis(self.bias, projected)


class SignCodec(TokenCodec):
  """sign(x), read back as +-1: no calibration, no scale (for comparison)."""

  def setup(self):
    self.recovery = _RecoveryHead(self.config.embed_dim)

  def encode(self, states, token_ids, norm_scale, beta=None):
    del token_ids, norm_scale
    states = states.astype(jnp.float32)
    nothing = jnp.zeros(states.shape[:-1] + (0,), jnp.float32)
    return TokenCode(straight_through.binarize(states, beta), nothing)

  def decode(self, code, token_ids, norm_scale):
    del token_ids, norm_scale
    return code.values

  def recovery_error(self, code, states, token_ids, norm_scale):
    del token_ids
    target = _normed(states, norm_scale)
    return jnp.mean(jnp.square(self.recovery(code.values) - target), axis=-1)

  def pack(self, code):
    nothing = jnp.zeros(code.values.shape[:-1] + (0,), jnp.uint8)
    return PackedCode(_pack_signs(code.values), nothing)

  def unpack(self, packed):
    values = _unpack_signs(packed.bits)
    nothing = jnp.zeros(values.shape[:-1] + (0,), jnp.float32)
    return TokenCode(values, nothing)


class CalibratedCodec(SignCodec):
  """The paper's calibrated binarization (section 3.1).

  b = sign(y) with y = w * x / sqrt(v), the output of the next block's norm
  (v: the token's variance, w: the norm's weight). The scale is recovered as
  x_hat = b * sqrt(v) / w. The upper block then runs unchanged on x_hat: its
  norm turns it back into something proportional to b, and its residual branch
  has the scale that the layers above expect. That is codec.wiring
  `recovered`; the paper leaves open what attention reads, so there are others
  (`config.CodecConfig`).
  """

  def encode(self, states, token_ids, norm_scale, beta=None):
    del token_ids
    rms = layers.root_mean_square(states)
    return TokenCode(
      values=straight_through.binarize(_normed(states, norm_scale), beta),
      scale=self._stored.round(jnp.square(rms)),
    )

  def decode(self, code, token_ids, norm_scale):
    del token_ids
    if self.config.codec.wiring == 'unscaled':
      return code.values
    if self.config.codec.wiring == 'rms':
      return code.values * jnp.sqrt(code.scale)
    small = jnp.abs(norm_scale) < _SMALLEST_NORM_SCALE
    safe = jnp.where(small, _SMALLEST_NORM_SCALE, norm_scale)
    root = jnp.sqrt(code.scale)
    return code.values * root / layers.over_last_axis(safe, code.values)

  def reading(self, code):
    return code.values if self.config.codec.wiring == 'bits' else None

  def pack(self, code):
    bits = _pack_signs(code.values)
    return PackedCode(bits, self._stored.to_bytes(code.scale))

  def unpack(self, packed):
    scale = self._stored.from_bytes(packed.scale)
    return TokenCode(_unpack_signs(packed.bits), scale)

  @property
  def _stored(self):
    return scale_code.of_variance(self.config.codec)


CODEC_CLASSES = {
  'float': FloatCodec,
  'sign': SignCodec,
  'calibrated': CalibratedCodec,
  'residual': ResidualCodec,
}


def make_codec(config: config_lib.ReaderConfig, **kwargs) -> TokenCodec:
  """The configured codec as a Linen module."""
  return CODEC_CLASSES[config.codec.kind](config, **kwargs)
