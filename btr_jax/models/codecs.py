"""Token codecs: the states of passage tokens to bits and back.

One interface for all. `encode` gives what is stored, as numbers through which
gradients pass (`TokenCode`); `decode` gives back the states that enter the
upper layers; `pack` and `unpack` turn a TokenCode into the cache's bytes and
back without loss, so that reading from a cache equals recomputing.

  float       bfloat16 values: DeFormer's cache, and the reference.
  sign        plain sign of the states; what the paper shows to fail.
  calibrated  the paper's: sign after the next block's norm, and the token's
              variance, from which the scale is recovered.
  residual    ours: signs of the rotated residual to what the token id predicts.
"""

from __future__ import annotations

import dataclasses

from flax import linen as nn
from flax import struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from btr_jax import axes
from btr_jax import config as config_lib
from btr_jax.models import layers, scale_code, straight_through

# The norm's weight divides in the calibrated codec's scale recovery.
_SMALLEST_NORM_SCALE = 1e-3
_BFLOAT16 = scale_code.Bfloat16()


@struct.dataclass
class TokenCode:
  """What is stored of each token, before packing.

  Attributes:
    values: the codes, +-1 (for the float codec the values themselves),
      [..., values].
    scale: the numbers stored beside them, already rounded to what their bytes
      hold, [..., scales].
  """

  values: Float[Array, '*tokens values']
  scale: Float[Array, '*tokens scales']


@struct.dataclass
class PackedCode:
  """A TokenCode as the bytes of the cache."""

  bits: UInt8[Array, '*tokens bits_bytes']
  scale: UInt8[Array, '*tokens scale_bytes']


@dataclasses.dataclass(frozen=True)
class CodecLayout:
  """Bytes per token that a codec stores."""

  kind: str
  bits_bytes: int
  scale_bytes: int


def codec_layout(config: config_lib.ReaderConfig) -> CodecLayout:
  """Bytes per token of the configured codec, without building it."""
  kind = config.codec.kind
  bits_bytes = {
    'float': 2 * config.embed_dim,
    'sign': config.embed_dim // 8,
    'calibrated': config.embed_dim // 8,
    'residual': (config.codec.num_bits or config.embed_dim) // 8,
  }[kind]
  one = config.codec.scale_bits // 8
  scale_bytes = {'float': 0, 'sign': 0, 'calibrated': one, 'residual': one + 1}
  return CodecLayout(kind, bits_bytes, scale_bytes[kind])


def _pack_signs(values):
  return jnp.packbits(values > 0, axis=-1)


def _unpack_signs(bits):
  signs = jnp.unpackbits(bits, axis=-1).astype(jnp.float32)
  return signs * 2.0 - 1.0


def _normed(states, norm_scale):
  """What the norm of the first upper layer makes of the states."""
  normed = states.astype(jnp.float32) / layers.root_mean_square(states)
  return normed * layers.over_last_axis(norm_scale, normed)


class TokenCodec(nn.Module):
  """The interface; see the module's docstring. Shapes as in `TokenCode`."""

  config: config_lib.ReaderConfig

  def encode(
    self,
    states: Float[Array, '*tokens embed'],
    token_ids: Int[Array, '*tokens'],
    norm_scale: Float[Array, 'embed'],
  ) -> TokenCode:
    """What is stored of the states that enter the first upper layer.

    Args:
      states: the residual stream at the split.
      token_ids: the tokens, which are stored anyway.
      norm_scale: weight of the norm that reads these states.

    Returns:
      A TokenCode, differentiable by straight-through estimators.
    """
    raise NotImplementedError

  def decode(
    self,
    code: TokenCode,
    token_ids: Int[Array, '*tokens'],
    norm_scale: Float[Array, 'embed'],
  ) -> Float[Array, '*tokens embed']:
    """The states that the upper layers go on with."""
    raise NotImplementedError

  def recovery_error(
    self,
    code: TokenCode,
    states: Float[Array, '*tokens embed'],
    token_ids: Int[Array, '*tokens'],
    norm_scale: Float[Array, 'embed'],
  ) -> Float[Array, '*tokens']:
    """How badly the code recovers the state, per token (paper, eq. 5)."""
    raise NotImplementedError

  def pack(self, code: TokenCode) -> PackedCode:
    """To the cache's bytes."""
    raise NotImplementedError

  def unpack(self, packed: PackedCode) -> TokenCode:
    """From the cache's bytes; the exact inverse of `pack`."""
    raise NotImplementedError


class FloatCodec(TokenCodec):
  """bfloat16 states: no bits, 16 times the bytes of one bit per dimension."""

  def encode(self, states, token_ids, norm_scale):
    del token_ids, norm_scale
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

  def encode(self, states, token_ids, norm_scale):
    del token_ids, norm_scale
    states = states.astype(jnp.float32)
    nothing = jnp.zeros(states.shape[:-1] + (0,), jnp.float32)
    return TokenCode(straight_through.sign(states), nothing)

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
  has the scale that the layers above expect.
  """

  def encode(self, states, token_ids, norm_scale):
    del token_ids
    rms = layers.root_mean_square(states)
    return TokenCode(
      values=straight_through.sign(_normed(states, norm_scale)),
      scale=self._stored.round(jnp.square(rms)),
    )

  def decode(self, code, token_ids, norm_scale):
    del token_ids
    small = jnp.abs(norm_scale) < _SMALLEST_NORM_SCALE
    safe = jnp.where(small, _SMALLEST_NORM_SCALE, norm_scale)
    root = jnp.sqrt(code.scale)
    return code.values * root / layers.over_last_axis(safe, code.values)

  def pack(self, code):
    bits = _pack_signs(code.values)
    return PackedCode(bits, self._stored.to_bytes(code.scale))

  def unpack(self, packed):
    scale = self._stored.from_bytes(packed.scale)
    return TokenCode(_unpack_signs(packed.bits), scale)

  @property
  def _stored(self):
    return scale_code.of_variance(self.config.codec)


class ResidualCodec(TokenCodec):
  """Signs of the rotated residual to a prediction from the token id.

  On u = x / rms(x) / deviation, where every dimension has unit deviation:

    z = (u - table[token id]) @ rotation       the first `num_bits` directions
    s = mean(|z| / level)                      one byte per token
    b = sign(z)
    u_hat = table[token id] + (b * level * s) @ rotation^T

  The table, rotation (orthogonal at the start), levels and deviations start
  from the corpus's statistics (`models/codec_fit.py`) and are trained on.
  Stored: the bits, rms(x) in two bytes (or one, codec.scale_bits), s in one.
  """

  def setup(self):
    cfg = self.config
    num_bits = cfg.codec.num_bits or cfg.embed_dim

    def param(name, init, shape, names):
      return layers.param_with_axes(
        name, init, shape, jnp.float32, axes=names, module=self
      )

    self.table = param(
      'table',
      nn.initializers.zeros,
      (cfg.vocab_size, cfg.embed_dim),
      (axes.VOCAB, axes.EMBED),
    )
    self.deviation = param(
      'deviation', nn.initializers.ones, (cfg.embed_dim,), (axes.EMBED,)
    )
    self.rotation = param(
      'rotation',
      nn.initializers.orthogonal(),
      (cfg.embed_dim, num_bits),
      (axes.EMBED, axes.BITS),
    )
    # 0.8 is the mean of |z| for a unit normal z.
    self.level = param(
      'level', nn.initializers.constant(0.8), (num_bits,), (axes.BITS,)
    )

  def _predict(self, token_ids):
    return jnp.take(self.table, token_ids, axis=0)

  def _whiten(self, states):
    rms = layers.root_mean_square(states)
    normed = states.astype(jnp.float32) / rms
    return normed / layers.over_last_axis(self.deviation, normed), rms

  def _reconstruct(self, code, token_ids):
    level = layers.over_last_axis(self.level, code.values)
    amplitude = code.scale[..., 1:] * level
    residual = jnp.dot(code.values * amplitude, self.rotation.T)
    return self._predict(token_ids) + residual

  def encode(self, states, token_ids, norm_scale):
    del norm_scale
    whitened, rms = self._whiten(states)
    rotated = jnp.dot(whitened - self._predict(token_ids), self.rotation)
    relative = rotated / layers.over_last_axis(self.level, rotated)
    amplitude = jnp.mean(jnp.abs(relative), axis=-1, keepdims=True)
    amplitude = straight_through.round_to_log_code(amplitude)
    scale = [self._stored_rms.round(rms), amplitude]
    return TokenCode(
      values=straight_through.sign(relative / amplitude),
      scale=jnp.concatenate(scale, axis=-1),
    )

  def decode(self, code, token_ids, norm_scale):
    del norm_scale
    whitened = self._reconstruct(code, token_ids)
    deviation = layers.over_last_axis(self.deviation, whitened)
    return whitened * deviation * code.scale[..., :1]

  def recovery_error(self, code, states, token_ids, norm_scale):
    del norm_scale
    whitened, _ = self._whiten(states)
    difference = self._reconstruct(code, token_ids) - whitened
    return jnp.mean(jnp.square(difference), axis=-1)

  def pack(self, code):
    scale = [
      self._stored_rms.to_bytes(code.scale[..., :1]),
      straight_through.log_code(code.scale[..., 1:]),
    ]
    return PackedCode(_pack_signs(code.values), jnp.concatenate(scale, axis=-1))

  def unpack(self, packed):
    width = self._stored_rms.num_bytes
    scale = [
      self._stored_rms.from_bytes(packed.scale[..., :width]),
      straight_through.log_decode(packed.scale[..., width:]),
    ]
    return TokenCode(
      _unpack_signs(packed.bits), jnp.concatenate(scale, axis=-1)
    )

  @property
  def _stored_rms(self):
    return scale_code.of_rms(self.config.codec)


CODEC_CLASSES = {
  'float': FloatCodec,
  'sign': SignCodec,
  'calibrated': CalibratedCodec,
  'residual': ResidualCodec,
}


def make_codec(config: config_lib.ReaderConfig, **kwargs) -> TokenCodec:
  """The configured codec as a Linen module."""
  return CODEC_CLASSES[config.codec.kind](config, **kwargs)
