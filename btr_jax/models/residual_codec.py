"""The residual codec: what the token id predicts costs no bits."""

from __future__ import annotations

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from btr_jax import axes
from btr_jax.models import layers, levels, scale_code, straight_through
from btr_jax.models.token_codec import (
  PackedCode,
  TokenCode,
  TokenCodec,
  kept_directions,
)


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
