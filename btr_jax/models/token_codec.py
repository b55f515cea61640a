"""What every token codec offers: states of passage tokens to bits and back.

`encode` gives what is stored, as numbers through which gradients pass
(`TokenCode`); `decode` gives back the states that enter the upper layers;
`pack` and `unpack` turn a TokenCode into the cache's bytes and back without
loss, so that reading from a cache equals recomputing.
"""

from __future__ import annotations

import dataclasses

from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from btr_jax import config as config_lib


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
