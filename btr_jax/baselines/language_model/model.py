"""The decoder: all positions at once, or a prompt and then token by token.

Prompts of a batch are padded on the left, so that every answer begins in the
same column of the cache; positions count real tokens only.
"""

from __future__ import annotations

from flax import linen as nn
from flax import struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax import axes
from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import layers, rope
from btr_jax.models import layers as shared


@struct.dataclass
class Cache:
  """What one more token attends to.

  Attributes:
    keys_values: per layer, with room for the longest answer.
    visible: columns that hold a real token.
    column: where the next token goes.
    position: of the next token of each row.
  """

  keys_values: tuple[layers.KeysValues, ...]
  visible: Bool[Array, 'batch columns']
  column: Int[Array, '']
  position: Int[Array, 'batch']


def positions_of(
  mask: Bool[Array, 'batch length'],
) -> Int[Array, 'batch length']:
  """Numbers real tokens from 0; padding before them gets 0."""
  counted = jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1
  return jnp.maximum(counted, 0)


class LanguageModel(nn.Module):
  """Embedding, layers, norm, logits."""

  config: config_lib.LanguageModelConfig
  lora: config_lib.LoraConfig | None = None

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.token_embedder = shared.Embedding(cfg.vocab_size, cfg.embed_dim, dtype)
    layer = shared.remat(layers.Layer, cfg.remat, 'over_all', 4)
    self.layers = [layer(cfg, self.lora) for _ in range(cfg.num_layers)]
    self.norm = layers.RmsNorm(cfg)
    if not cfg.logits_via_embedding:
      self.logits_dense = shared.Dense(
        cfg.embed_dim, cfg.vocab_size, (axes.EMBED, axes.VOCAB), dtype=dtype
      )

  def _logits(self, states):
    states = self.norm(states)
    if self.config.logits_via_embedding:
      # Not scaled, unlike T5's.
      embedding = self.token_embedder.embedding.astype(states.dtype)
      logits = jnp.dot(states, embedding.T)
    else:
      logits = self.logits_dense(states)
    logits = shared.constrain(logits, axes.BATCH, axes.LENGTH, axes.VOCAB)
    return logits.astype(jnp.float32)

  def _over_all(self, tokens, mask, deterministic):
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    visible = causal[None] & mask[:, None, :]
    angle = rope.angles(positions_of(mask), self.config)
    states = shared.constrain_states(self.token_embedder(tokens))
    found = []
    for layer in self.layers:
      # Positional: `remat` knows its static argument by its place.
      states, own = layer.over_all(states, angle, visible, deterministic)
      found.append(own)
    return states, found

  def __call__(
    self,
    tokens: Int[Array, 'batch length'],
    mask: Bool[Array, 'batch length'],
    deterministic: bool = True,
    last: int | None = None,
  ) -> Float[Array, 'batch _ vocab']:
    """Logits of what follows each position.

    Args:
      tokens: padded on the left.
      mask: real tokens.
      deterministic: no dropout (of LoRA; the model itself has none).
      last: so many positions at the end alone; None for all.
    """
    states, _ = self._over_all(tokens, mask, deterministic)
    return self._logits(states if last is None else states[:, -last:])

  def prefill(
    self,
    tokens: Int[Array, 'batch length'],
    mask: Bool[Array, 'batch length'],
    room: int,
  ) -> tuple[Float[Array, 'batch vocab'], Cache]:
    """Reads the prompts.

    Args:
      tokens: padded on the left; every row ends with a real token.
      mask: real tokens.
      room: tokens that may be fed afterwards.

    Returns:
      Logits of the first token of the answer, and the cache for `step`.
    """
    states, found = self._over_all(tokens, mask, True)

    def with_room(own):
      return jnp.pad(own, ((0, 0), (0, room), (0, 0), (0, 0)))

    cache = Cache(
      tuple((with_room(keys), with_room(values)) for keys, values in found),
      jnp.pad(mask, ((0, 0), (0, room))),
      jnp.int32(tokens.shape[1]),
      jnp.sum(mask, axis=1, dtype=jnp.int32),
    )
    return self._logits(states[:, -1:])[:, 0], cache

  def step(
    self, tokens: Int[Array, 'batch'], cache: Cache
  ) -> tuple[Float[Array, 'batch vocab'], Cache]:
    """Feeds one token per row and returns the logits of the next."""
    columns = jnp.arange(cache.visible.shape[1], dtype=jnp.int32)
    visible = cache.visible | (columns == cache.column)[None]
    angle = rope.angles(cache.position[:, None], self.config)
    states = shared.constrain_states(self.token_embedder(tokens[:, None]))
    written = []
    for layer, own in zip(self.layers, cache.keys_values, strict=True):
      states, own = layer.step(
        states, angle, visible[:, None], own, cache.column
      )
      written.append(own)
    cache = Cache(tuple(written), visible, cache.column + 1, cache.position + 1)
    return self._logits(states)[:, 0], cache
