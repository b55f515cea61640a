"""T5's decoder over the fused memory of all passages (Fusion-in-Decoder).

For training the whole target goes through at once. For decoding, the keys and
values of the memory are projected once per question, and each step feeds one
token and reads the self-attention keys and values of the steps before.
"""

from __future__ import annotations

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax import axes
from btr_jax import config as config_lib
from btr_jax.models import layers

# Keys and values [batch, heads, length, kv], where the length is that of the
# tokens so far or that of the memory.
KeysValues = tuple[
  Float[Array, 'batch heads _ kv'], Float[Array, 'batch heads _ kv']
]


@struct.dataclass
class DecoderCache:
  """State of decoding.

  Attributes:
    self_attention: per layer, keys and values of the tokens so far, with room
      for the longest answer.
    cross_attention: per layer, keys and values of the memory.
  """

  self_attention: tuple[KeysValues, ...]
  cross_attention: tuple[KeysValues, ...]


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the memory, feed-forward."""

  config: config_lib.ReaderConfig

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)

    def attention():
      return layers.Attention(
        cfg.embed_dim, cfg.num_heads, cfg.head_dim, cfg.dropout_rate, dtype
      )

    self.pre_self_attention_layer_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.self_attention = attention()
    self.pre_cross_attention_layer_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.encoder_decoder_attention = attention()
    self.pre_mlp_layer_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.mlp = layers.MlpBlock(
      cfg.embed_dim, cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, dtype
    )
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    states: Float[Array, 'batch length embed'],
    self_keys_values: KeysValues | None,
    cross_keys_values: KeysValues,
    self_bias: Float[Array, '#batch heads length keys'],
    cross_bias: Float[Array, '#batch #heads #length memory'],
    step: Int[Array, ''] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'batch length embed'], KeysValues]:
    """One layer over all positions (no cache) or over position `step`."""

    def drop(update):
      return self.dropout(update, deterministic=deterministic)

    normed = self.pre_self_attention_layer_norm(states)
    keys, values = self.self_attention.keys_and_values(normed)
    if self_keys_values is not None:
      write = jax.lax.dynamic_update_slice_in_dim
      keys = write(self_keys_values[0], keys, step, axis=2)
      values = write(self_keys_values[1], values, step, axis=2)
    update, _ = self.self_attention.attend(
      normed, keys, values, self_bias, deterministic
    )
    states = states + drop(update)
    update, _ = self.encoder_decoder_attention.attend(
      self.pre_cross_attention_layer_norm(states),
      *cross_keys_values,
      cross_bias,
      deterministic,
    )
    states = states + drop(update)
    update = self.mlp(self.pre_mlp_layer_norm(states), deterministic)
    states = layers.constrain_states(states + drop(update))
    return states, (keys, values)

  def over_memory(
    self,
    states: Float[Array, 'batch length embed'],
    memory: Float[Array, 'batch memory embed'],
    self_bias: Float[Array, '#batch heads length length'],
    cross_bias: Float[Array, '#batch #heads #length memory'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length embed']:
    """One layer over all positions, the memory's projection included.

    So that `remat` need not keep the memory's keys and values of all layers.
    """
    cross = self.encoder_decoder_attention.keys_and_values(memory)
    states, _ = self(
      states, None, cross, self_bias, cross_bias, deterministic=deterministic
    )
    return states


class Decoder(nn.Module):
  """The stack, its position bias, and the logits."""

  config: config_lib.ReaderConfig
  token_embedder: layers.Embedding

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.relpos_bias = layers.RelativePositionBias(
      cfg.num_heads,
      cfg.relpos_buckets,
      cfg.relpos_max_distance,
      bidirectional=False,
      dtype=dtype,
    )
    layer = layers.remat(DecoderLayer, cfg.remat, 'over_memory', 5)
    self.layers = [layer(cfg) for _ in range(cfg.num_decoder_layers)]
    self.decoder_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
    if not cfg.logits_via_embedding:
      self.logits_dense = layers.Dense(
        cfg.embed_dim, cfg.vocab_size, (axes.EMBED, axes.VOCAB), dtype=dtype
      )

  def _logits(self, states, deterministic):
    states = self.decoder_norm(states)
    states = self.dropout(states, deterministic=deterministic)
    if self.config.logits_via_embedding:
      logits = self.token_embedder.attend(states)
    else:
      logits = self.logits_dense(states)
    logits = layers.constrain(logits, axes.BATCH, axes.LENGTH, axes.VOCAB)
    return logits.astype(jnp.float32)

  def project_memory(
    self, memory: Float[Array, 'batch memory embed']
  ) -> tuple[KeysValues, ...]:
    """Keys and values of the memory for every layer: once per question."""
    return tuple(
      layer.encoder_decoder_attention.keys_and_values(memory)
      for layer in self.layers
    )

  def __call__(
    self,
    memory: Float[Array, 'batch memory embed'],
    memory_mask: Bool[Array, 'batch memory'],
    input_tokens: Int[Array, 'batch length'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length vocab']:
    """Logits for all positions at once (teacher forcing)."""
    length = input_tokens.shape[1]
    positions = jnp.arange(length, dtype=jnp.int32)
    causal = jnp.where(
      positions[None, :] <= positions[:, None], 0.0, layers.MASKED
    )
    self_bias = self.relpos_bias(positions, positions) + causal[None, None]
    cross_bias = layers.padding_bias(memory_mask)
    states = self.token_embedder(input_tokens)
    states = self.dropout(states, deterministic=deterministic)
    states = layers.constrain_states(states)
    for layer in self.layers:
      # Positional: `remat` knows its static argument by its place.
      states = layer.over_memory(
        states, memory, self_bias, cross_bias, deterministic
      )
    return self._logits(states, deterministic)

  def start(
    self, memory: Float[Array, 'batch memory embed'], max_length: int
  ) -> DecoderCache:
    """The cache before the first step."""
    cfg = self.config
    shape = (memory.shape[0], cfg.num_heads, max_length, cfg.head_dim)
    zeros = layers.constrain(
      jnp.zeros(shape, jnp.dtype(cfg.dtype)),
      axes.BATCH,
      axes.HEADS,
      axes.LENGTH,
      axes.KV,
    )
    return DecoderCache(
      self_attention=tuple((zeros, zeros) for _ in self.layers),
      cross_attention=self.project_memory(memory),
    )

  def step(
    self,
    cache: DecoderCache,
    memory_mask: Bool[Array, 'batch memory'],
    tokens: Int[Array, 'batch'],
    step: Int[Array, ''],
  ) -> tuple[Float[Array, 'batch vocab'], DecoderCache]:
    """Feeds one token per example and returns the logits of the next."""
    max_length = cache.self_attention[0][0].shape[2]
    positions = jnp.arange(max_length, dtype=jnp.int32)
    future = jnp.where(positions <= step, 0.0, layers.MASKED)
    self_bias = self.relpos_bias(step[None], positions)
    self_bias = self_bias + future[None, None, None]
    cross_bias = layers.padding_bias(memory_mask)
    states = self.token_embedder(tokens[:, None])
    self_attention = []
    for layer, own, cross in zip(
      self.layers, cache.self_attention, cache.cross_attention, strict=True
    ):
      states, own = layer(states, own, cross, self_bias, cross_bias, step)
      self_attention.append(own)
    logits = self._logits(states, deterministic=True)[:, 0]
    return logits, cache.replace(self_attention=tuple(self_attention))
