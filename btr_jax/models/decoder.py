"""T5's decoder over the fused memory of all passages (Fusion-in-Decoder).

For training the whole target goes through at once. For decoding, what can be
done once per question is (`Decoder.start`), and each step feeds one token and
reads the self-attention keys and values of the steps before. Several beams of
a question are several queries to one memory, which is never copied for them.
"""

from __future__ import annotations

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from btr_jax import axes
from btr_jax import config as config_lib
from btr_jax.models import attention as attention_lib
from btr_jax.models import layers
from btr_jax.models import merging as merging_lib

# Keys and values of the memory.
KeysValues = tuple[
  Float[Array, 'batch heads memory kv'], Float[Array, 'batch heads memory kv']
]

# Keys and values of the tokens so far, with room for the longest answer; a row
# for each head of each beam of each question. With an axis for heads, XLA's CPU
# backend copies all of it four times a step.
Written = tuple[Float[Array, 'rows length kv'], Float[Array, 'rows length kv']]

# Per layer.
SelfAttentionCache = tuple[Written, ...]


@struct.dataclass
class Memory:
  """What a decoder layer attends to while it decodes.

  Attributes:
    form: one of `config.CROSS_ATTENTIONS`.
    states: the memory; None for the form `cached`.
    keys_values: its keys and values; None for the other forms.
    kernels: for the form `absorbed`, from `Attention.absorbing_kernels`.
    transposed: the states, for the form `absorbed` on a CPU.
    bias: added to the scores: padding, and sizes of merged tokens.
  """

  form: str = struct.field(pytree_node=False)
  states: Float[Array, 'batch memory embed'] | None
  keys_values: KeysValues | None
  kernels: (
    tuple[Float[Array, 'heads kv embed'], Float[Array, 'heads embed kv']] | None
  )
  bias: Float[Array, 'batch 1 1 memory']
  transposed: Float[Array, 'batch embed memory'] | None = None


@struct.dataclass
class Constants:
  """What every step of decoding reads and none changes.

  Attributes:
    memories: what each layer attends to.
    self_bias: of the self-attention: positions, and the future masked.
  """

  memories: tuple[Memory, ...]
  self_bias: Float[Array, '1 heads length length']


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the memory, feed-forward."""

  config: config_lib.ReaderConfig

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)

    def attention():
      return attention_lib.Attention(
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

    def drop(update):
      return self.dropout(update, deterministic=deterministic)

    cross = self.encoder_decoder_attention.keys_and_values(memory)
    update, _ = self.self_attention(
      self.pre_self_attention_layer_norm(states), self_bias, deterministic
    )
    states = states + drop(update)
    update, _ = self.encoder_decoder_attention.attend(
      self.pre_cross_attention_layer_norm(states),
      *cross,
      cross_bias,
      deterministic,
    )
    states = states + drop(update)
    update = self.mlp(self.pre_mlp_layer_norm(states), deterministic)
    return layers.constrain_states(states + drop(update))

  def step(
    self,
    states: Float[Array, 'batch beams embed'],
    cache: Written,
    memory: Memory,
    self_bias: Float[Array, '1 heads 1 keys'],
    step: Int[Array, ''],
  ) -> tuple[Float[Array, 'batch beams embed'], Written]:
    """One layer over position `step` of each beam."""
    # [batch, beams, embed] -> [batch * beams, 1, embed]: beams share nothing
    # but the memory.
    normed = self.pre_self_attention_layer_norm(states)
    normed = normed.reshape(-1, 1, normed.shape[-1])
    new = self.self_attention.keys_and_values(normed)
    rows, heads, _, kv = new[0].shape
    cache = tuple(
      jax.lax.dynamic_update_slice_in_dim(
        old, latest.reshape(-1, 1, kv), step, axis=1
      )
      for old, latest in zip(cache, new, strict=True)
    )
    keys, values = (old.reshape(rows, heads, -1, kv) for old in cache)
    update, _ = self.self_attention.attend(normed, keys, values, self_bias)
    states = states + update.reshape(states.shape)
    states = states + self._attend_to(memory, states)
    states = states + self.mlp(self.pre_mlp_layer_norm(states))
    return layers.constrain_states(states), cache

  def _attend_to(self, memory, states):
    attention = self.encoder_decoder_attention
    queries = self.pre_cross_attention_layer_norm(states)
    if memory.form == 'absorbed':
      return attention.attend_absorbed(
        queries, memory.states, memory.bias, memory.kernels, memory.transposed
      )
    if memory.form == 'cached':
      keys, values = memory.keys_values
    else:
      keys, values = attention.keys_and_values(memory.states)
    return attention.attend(queries, keys, values, memory.bias)[0]

  def read_memory(
    self,
    memory: Float[Array, 'batch memory embed'],
    bias: Float[Array, 'batch 1 1 memory'],
    form: str,
    tokens_at_once: int | None = None,
  ) -> Memory:
    """What `step` attends to, all work done that can be done beforehand."""
    attention = self.encoder_decoder_attention
    if form == 'cached':
      keys_values = attention.keys_and_values(memory, tokens_at_once)
      return Memory(form, None, keys_values, None, bias)
    if form == 'reproject':
      return Memory(form, memory, None, None, bias)
    transposed = None
    if jax.default_backend() == 'cpu':
      # XLA's CPU backend multiplies a few rows by a matrix a third faster if
      # the products' sums run over the first axes of both, and that is the
      # larger part of a step. Layers that share a memory share this too.
      transposed = memory.transpose(0, 2, 1)
    kernels = attention.absorbing_kernels()
    return Memory(form, memory, None, kernels, bias, transposed)


class Decoder(nn.Module):
  """The stack, its position bias, and the logits."""

  config: config_lib.ReaderConfig
  token_embedder: layers.Embedding

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.relpos_bias = attention_lib.RelativePositionBias(
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

  def _self_bias(self, length):
    positions = np.arange(length, dtype=np.int32)
    causal = jnp.where(
      positions[None, :] <= positions[:, None], 0.0, attention_lib.MASKED
    )
    return self.relpos_bias(positions, positions) + causal[None, None]

  def __call__(
    self,
    memory: Float[Array, 'batch memory embed'],
    memory_mask: Bool[Array, 'batch memory'],
    input_tokens: Int[Array, 'batch length'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length vocab']:
    """Logits for all positions at once (teacher forcing)."""
    self_bias = self._self_bias(input_tokens.shape[1])
    cross_bias = attention_lib.padding_bias(memory_mask)
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
    self,
    memory: Float[Array, 'batch memory embed'],
    memory_mask: Bool[Array, 'batch memory'],
    max_length: int,
    inference: config_lib.InferenceConfig,
    tokens: merging_lib.Tokens | None = None,
  ) -> tuple[SelfAttentionCache, Constants]:
    """What decoding begins with.

    Args:
      memory: the encoder's output.
      memory_mask: real tokens.
      max_length: of the answers.
      inference: form of cross-attention, merging, beams.
      tokens: what the memory stands for; needed to merge across passages.

    Returns:
      The empty cache of the beams' self-attention, and what all steps read.
    """
    cfg = self.config
    rows = memory.shape[0] * inference.num_beams * cfg.num_heads
    zeros = layers.constrain(
      jnp.zeros((rows, max_length, cfg.head_dim), jnp.dtype(cfg.dtype)),
      axes.BATCH,
      axes.LENGTH,
      axes.KV,
    )
    form = inference.cross_attention_for(max_length, cfg.head_dim)
    memories = tuple(
      layer.read_memory(states, bias, form, inference.tokens_at_once)
      for layer, (states, bias) in zip(
        self.layers,
        self._memories(memory, memory_mask, inference.merging, tokens),
        strict=True,
      )
    )
    # Here and not at every step, where it would be many small operations.
    constants = Constants(memories, self._self_bias(max_length))
    return tuple((zeros, zeros) for _ in self.layers), constants

  def _memories(self, memory, memory_mask, merging, tokens):
    """Memory and bias of each layer; merged from one layer to the next."""
    bias = attention_lib.padding_bias(memory_mask)
    if tokens is not None:
      bias += merging_lib.size_bias(tokens, merging.proportional_attention)
    if merging.cross_ratio:
      memory, tokens = merging_lib.by_kind(memory, tokens)
    found = []
    for number, layer in enumerate(self.layers):
      if merging.merges_at(number):
        count = merging_lib.merge_count(memory.shape[1], merging.cross_ratio)
        features = layer.encoder_decoder_attention.mean_keys(memory)
        matching = merging_lib.match(features, tokens.kinds, count)
        memory, tokens = merging_lib.merge(matching, memory, tokens)
      if merging.cross_ratio:
        bias = attention_lib.padding_bias(tokens.kinds != merging_lib.PADDING)
        bias += merging_lib.size_bias(tokens, merging.proportional_attention)
      found.append((memory, bias))
    return found

  def step(
    self,
    cache: SelfAttentionCache,
    constants: Constants,
    tokens: Int[Array, 'batch beams'],
    step: Int[Array, ''],
  ) -> tuple[Float[Array, 'batch beams vocab'], SelfAttentionCache]:
    """Feeds one token per beam and returns the logits of the next."""
    self_bias = jax.lax.dynamic_slice_in_dim(
      constants.self_bias, step, 1, axis=2
    )
    states = self.token_embedder(tokens)
    written = []
    for layer, own, memory in zip(
      self.layers, cache, constants.memories, strict=True
    ):
      states, own = layer.step(states, own, memory, self_bias, step)
      written.append(own)
    return self._logits(states, deterministic=True), tuple(written)
