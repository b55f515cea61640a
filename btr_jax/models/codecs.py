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
import numpy as np

from btr_jax import axes
from btr_jax import config as config_lib
from btr_jax.models import layers, levels, scale_code, straight_through

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
  kind, bits_per_dim = config.codec.kind, config.codec.bits_per_dim
  bits_bytes = {
    'float': 2 * config.embed_dim,
    'sign': config.embed_dim // 8,
    'calibrated': config.embed_dim // 8,
    'residual': kept_directions(config) * bits_per_dim // 8,
  }[kind]
  one = config.codec.scale_bits // 8
  scale_bytes = {'float': 0, 'sign': 0, 'calibrated': one, 'residual': one + 1}
  # Levels of several bits are no vectors of signs: what works on signs, such
  # as merging by Hamming distance, knows them by their name.
  name = kind if bits_per_dim == 1 else f'{kind}_{bits_per_dim}bit'
  return CodecLayout(name, bits_bytes, scale_bytes[kind])


def kept_directions(config: config_lib.ReaderConfig) -> int:
  """Directions that the residual codec keeps of a token."""
  num_bits = config.codec.num_bits
  if num_bits is None:
    return config.embed_dim
  return num_bits // config.codec.bits_per_dim


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
    beta: Float[Array, ''] | None = None,
  ) -> TokenCode:
    """What is stored of the states that enter the first upper layer.

    Args:
      states: the residual stream at the split.
      token_ids: the tokens, which are stored anyway.
      norm_scale: weight of the norm that reads these states.
      beta: in annealed training, of tanh(beta x) in place of the sign.

    Returns:
      A TokenCode, differentiable by straight-through estimators, or by tanh.
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

  def reading(self, code: TokenCode) -> Float[Array, '*tokens embed'] | None:
    """What the next block's attention reads, if not the norm of `decode`."""
    del code
    return None

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


class ResidualCodec(TokenCodec):
  """Signs (or levels) of the rotated residual to a prediction from token ids.

  On u = x / rms(x) / deviation, where every dimension has unit deviation:

    p = table[token id]                 plus, with codec.window, what the ids
                                        of the neighbours say, a table each
    z = (u - p) @ rotation              the directions that tell most
    s = mean(|z| / level)               one byte per token
    b = sign(z)                         or the level nearest to z / level / s
    u_hat = p + (b * level * s) @ rotation^T

  Tables, rotation (orthogonal at the start), levels and deviations start
  from the corpus's statistics (`models/codec_fit.py`) and are trained on.
  Stored: the bits, rms(x) in two bytes (or one, codec.scale_bits), s in one.
  """

  def setup(self):
    cfg = self.config
    directions = kept_directions(cfg)
    self._bits = cfg.codec.bits_per_dim

    def param(name, init, shape, names):
      return layers.param_with_axes(
        name, init, shape, jnp.float32, axes=names, module=self
      )

    def table(name):
      shape = (cfg.vocab_size, cfg.embed_dim)
      names = (axes.VOCAB, axes.EMBED)
      return param(name, nn.initializers.zeros, shape, names)

    self.table = table('table')
    self.neighbours = {
      offset: table(neighbour_name(offset))
      for offset in neighbour_offsets(cfg.codec.window)
    }
    self.deviation = param(
      'deviation', nn.initializers.ones, (cfg.embed_dim,), (axes.EMBED,)
    )
    self.rotation = param(
      'rotation',
      nn.initializers.orthogonal(),
      (cfg.embed_dim, directions),
      (axes.EMBED, axes.BITS),
    )
    # 0.8 is the mean of |z| for a unit normal z.
    half_step = 0.8 * levels.HALF_STEP[self._bits]
    self.level = param(
      'level', nn.initializers.constant(half_step), (directions,), (axes.BITS,)
    )

  def _predict(self, token_ids):
    predicted = jnp.take(self.table, token_ids, axis=0)
    for offset, table in self.neighbours.items():
      predicted += jnp.take(table, neighbour_ids(token_ids, offset), axis=0)
    return predicted

  def _whiten(self, states):
    rms = layers.root_mean_square(states)
    normed = states.astype(jnp.float32) / rms
    return normed / layers.over_last_axis(self.deviation, normed), rms

  def _reconstruct(self, code, token_ids):
    level = layers.over_last_axis(self.level, code.values)
    amplitude = code.scale[..., 1:] * level
    residual = jnp.dot(code.values * amplitude, self.rotation.T)
    return self._predict(token_ids) + residual

  def encode(self, states, token_ids, norm_scale, beta=None):
    del norm_scale
    whitened, rms = self._whiten(states)
    rotated = jnp.dot(whitened - self._predict(token_ids), self.rotation)
    relative = rotated / layers.over_last_axis(self.level, rotated)
    # How much larger than a usual token's; for one bit the mean itself.
    usual = 1.0 / levels.HALF_STEP[self._bits]
    amplitude = jnp.mean(jnp.abs(relative), axis=-1, keepdims=True) / usual
    amplitude = straight_through.round_to_log_code(amplitude)
    scale = [self._stored_rms.round(rms), amplitude]
    return TokenCode(
      values=levels.quantize(relative / amplitude, self._bits, beta),
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
    bits = levels.pack(code.values, self._bits)
    return PackedCode(bits, jnp.concatenate(scale, axis=-1))

  def unpack(self, packed):
    width = self._stored_rms.num_bytes
    scale = [
      self._stored_rms.from_bytes(packed.scale[..., :width]),
      straight_through.log_decode(packed.scale[..., width:]),
    ]
    values = levels.unpack(packed.bits, self._bits)
    return TokenCode(values, jnp.concatenate(scale, axis=-1))

  @property
  def _stored_rms(self):
    return scale_code.of_rms(self.config.codec)


def neighbour_offsets(window: int) -> tuple[int, ...]:
  """Places of the neighbours that predict a token: (-1, 1) for 1."""
  return tuple(o for o in range(-window, window + 1) if o)


def neighbour_name(offset: int) -> str:
  """Name of a neighbour's table: 'table_before_1', 'table_after_1', ..."""
  return f'table_{"before" if offset < 0 else "after"}_{abs(offset)}'


def neighbour_ids(
  token_ids: Int[Array | np.ndarray, '*sequences length'], offset: int
) -> Int[Array, '*sequences length']:
  """The ids `offset` places on, 0 beyond the ends of a passage."""
  beyond = jnp.zeros_like(token_ids[..., : abs(offset)])
  if offset < 0:
    return jnp.concatenate([beyond, token_ids[..., :offset]], axis=-1)
  return jnp.concatenate([token_ids[..., offset:], beyond], axis=-1)


CODEC_CLASSES = {
  'float': FloatCodec,
  'sign': SignCodec,
  'calibrated': CalibratedCodec,
  'residual': ResidualCodec,
}


def make_codec(config: config_lib.ReaderConfig, **kwargs) -> TokenCodec:
  """The configured codec as a Linen module."""
  return CODEC_CLASSES[config.codec.kind](config, **kwargs)
