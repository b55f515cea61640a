"""The decomposed encoder: lower layers apart, upper layers together.

A reader encodes [question ; passage] once per passage. The lower layers may
run over both together (`joint`: Atlas) or over each alone (`decomposed`:
DeFormer, and BTR, which replaces the passage's states by bits at the split).
Questions are padded on the left and passages on the right, so the text of the
two touches, and relative positions are those of the unpadded string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import attention as attention_lib
from btr_jax.models import layers
from btr_jax.models import merging as merging_lib


class EncoderLayer(nn.Module):
  """Pre-norm self-attention and feed-forward."""

  config: config_lib.ReaderConfig

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.pre_attention_layer_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.attention = attention_lib.Attention(
      cfg.embed_dim, cfg.num_heads, cfg.head_dim, cfg.dropout_rate, dtype
    )
    self.pre_mlp_layer_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.mlp = layers.MlpBlock(
      cfg.embed_dim,
      cfg.mlp_dim,
      cfg.mlp_activations,
      cfg.dropout_rate,
      dtype,
    )
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self,
    states: Float[Array, 'batch length embed'],
    bias: Float[Array, '#batch #heads length length'],
    deterministic: bool = True,
    reading: Float[Array, 'batch length embed'] | None = None,
  ) -> tuple[
    Float[Array, 'batch length embed'],
    Float[Array, 'batch heads length length'],
  ]:
    normed = self._read(states, reading)
    update, weights = self.attention(normed, bias, deterministic)
    states = states + self.dropout(update, deterministic=deterministic)
    update = self.mlp(self.pre_mlp_layer_norm(states), deterministic)
    states = states + self.dropout(update, deterministic=deterministic)
    return layers.constrain_states(states), weights

  def _read(self, states, reading):
    # What attention reads: the norm of the states, unless a codec says it.
    if reading is not None:
      return reading
    return self.pre_attention_layer_norm(states)

  def merging(
    self,
    states: Float[Array, 'batch length embed'],
    bias: Float[Array, '#batch #heads length length'],
    tokens: merging_lib.Tokens,
    question_length: int,
    ratio: float,
    reading: Float[Array, 'batch length embed'] | None = None,
  ) -> tuple[Float[Array, 'batch left embed'], merging_lib.Tokens]:
    """The layer, merging passage tokens between attention and feed-forward."""
    normed = self._read(states, reading)
    keys, values = self.attention.keys_and_values(normed)
    update, _ = self.attention.attend(normed, keys, values, bias)
    states = states + update
    count = merging_lib.merge_count(states.shape[1] - question_length, ratio)
    if count:
      passage = tokens.part(question_length, None)
      features = jnp.mean(keys[:, :, question_length:], axis=1)
      matching = merging_lib.match(features, passage.kinds, count)
      merged, passage = merging_lib.merge(
        matching, states[:, question_length:], passage
      )
      question = states[:, :question_length]
      states = jnp.concatenate([question, merged], axis=1)
      tokens = passage.after(tokens.part(0, question_length))
    states = states + self.mlp(self.pre_mlp_layer_norm(states))
    return layers.constrain_states(states), tokens


@struct.dataclass
class UpperTrace:
  """What distillation reads off the upper layers of one encoding.

  Attributes:
    passage_states: one array per upper layer, the passage tokens' part of its
      output, [sequences, passage_length, embed].
    question_attention: how much the question attends to each passage token,
      the mean over upper layers, heads and question tokens,
      [sequences, passage_length].
  """

  passage_states: tuple[Float[Array, 'sequences length embed'], ...]
  question_attention: Float[Array, 'sequences length']


class Encoder(nn.Module):
  """T5's encoder, callable in two parts."""

  config: config_lib.ReaderConfig

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.relpos_bias = attention_lib.RelativePositionBias(
      cfg.num_heads,
      cfg.relpos_buckets,
      cfg.relpos_max_distance,
      bidirectional=True,
      dtype=dtype,
    )
    layer = layers.remat(EncoderLayer, cfg.remat, '__call__', 3)
    self.layers = [layer(cfg) for _ in range(cfg.num_encoder_layers)]
    self.encoder_norm = layers.LayerNorm(cfg.embed_dim, dtype)
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def _bias(self, mask):
    # Bias and padding mask in one array, computed once for all layers.
    positions = np.arange(mask.shape[1], dtype=np.int32)
    position_bias = self.relpos_bias(positions, positions)
    return position_bias + attention_lib.padding_bias(mask)

  def lower(
    self,
    embedded: Float[Array, 'sequences length embed'],
    mask: Bool[Array, 'sequences length'],
    deterministic: bool = True,
  ) -> Float[Array, 'sequences length embed']:
    """Layers 0..k-1 over the sequences as given: what enters layer k."""
    bias = self._bias(mask)
    states = self.dropout(embedded, deterministic=deterministic)
    states = layers.constrain_states(states)
    for layer in self.layers[: self.config.split_layer]:
      states, _ = layer(states, bias, deterministic)
    return states

  def upper(
    self,
    states: Float[Array, 'sequences length embed'],
    mask: Bool[Array, 'sequences length'],
    deterministic: bool = True,
    trace_question_length: int | None = None,
    reading: Float[Array, 'sequences length embed'] | None = None,
  ) -> tuple[Float[Array, 'sequences length embed'], UpperTrace | None]:
    """Layers k..n-1 and the final norm over [question ; passage].

    Args:
      states: what enters layer k, question first.
      mask: real tokens.
      deterministic: no dropout.
      trace_question_length: columns of the question; if given, an UpperTrace
        is returned beside the states.
      reading: what the attention of layer k reads in place of the norm of the
        states; None for that norm.

    Returns:
      The encoder's output, and the trace or None.
    """
    bias = self._bias(mask)
    question_length = trace_question_length
    states = layers.constrain_states(states)
    passage_states, attention = [], []
    for layer in self.layers[self.config.split_layer :]:
      states, weights = layer(states, bias, deterministic, reading)
      reading = None
      if question_length is not None:
        passage_states.append(states[:, question_length:])
        rows = mask[:, :question_length].astype(jnp.float32)
        to_passage = weights[:, :, :question_length, question_length:]
        mixed = jnp.einsum('bhqk,bq->bk', to_passage.astype(jnp.float32), rows)
        count = jnp.maximum(rows.sum(-1, keepdims=True), 1.0)
        attention.append(mixed / (count * weights.shape[1]))
    output = self.dropout(
      self.encoder_norm(states), deterministic=deterministic
    )
    if question_length is None:
      return output, None
    return output, UpperTrace(
      tuple(passage_states), sum(attention) / len(attention)
    )

  def upper_merging(
    self,
    states: Float[Array, 'sequences length embed'],
    tokens: merging_lib.Tokens,
    question_length: int,
    merging: config_lib.MergingConfig,
    reading: Float[Array, 'sequences length embed'] | None = None,
  ) -> tuple[Float[Array, 'sequences left embed'], merging_lib.Tokens]:
    """`upper`, merging similar tokens of each passage in every layer.

    Args:
      states: what enters layer k, question first.
      tokens: what they stand for.
      question_length: columns of the question, none of which is merged.
      merging: ratio, and whether attention is proportional to sizes.
      reading: see `upper`.

    Returns:
      The encoder's output and what is left of the tokens.
    """
    states = layers.constrain_states(states)
    last_position = states.shape[1] - 1
    for layer in self.layers[self.config.split_layer :]:
      bias = self.relpos_bias.gathered(tokens.positions, last_position)
      bias += attention_lib.padding_bias(tokens.kinds != merging_lib.PADDING)
      bias += merging_lib.size_bias(tokens, merging.proportional_attention)
      states, tokens = layer.merging(
        states, bias, tokens, question_length, merging.intra_ratio, reading
      )
      reading = None
    return self.encoder_norm(states), tokens

  def split_norm(
    self, states: Float[Array, 'sequences length embed']
  ) -> Float[Array, 'sequences length embed']:
    """What the attention of layer k reads of states that enter it."""
    layer = self.layers[self.config.split_layer]
    return layer.pre_attention_layer_norm(states)

  def by_groups(
    self,
    method: Callable[..., Any],
    sequences: Sequence[Any],
    tokens_at_once: int | None,
  ) -> Any:
    """What a method says of all sequences, reading a few of them at a time.

    Sequences know nothing of one another, so the answer is the same. What few
    of them leave in a layer stays in a processor's cache.

    Args:
      method: called as `method(self, *sequences)`; without dropout.
      sequences: trees of arrays [sequences, length, ...].
      tokens_at_once: of a group, which is one sequence at least and divides
        their number; None takes all.

    Returns:
      A tree of arrays whose first axis counts sequences.
    """
    leaves, structure = jax.tree.flatten(tuple(sequences))
    total, length = leaves[0].shape[:2]
    group = layers.group_size(total, tokens_at_once, length)
    if group == total:
      return method(self, *sequences)
    # Leaves alone, because containers check the shapes of what is in them.
    structures = []

    def read(encoder, carry, few):
      found = method(encoder, *jax.tree.unflatten(structure, few))
      few, of_found = jax.tree.flatten(found)
      structures.append(of_found)
      return carry, few

    _, found = nn.scan(
      read, variable_broadcast=True, split_rngs={'params': False}
    )(
      self,
      (),
      [leaf.reshape((-1, group) + leaf.shape[1:]) for leaf in leaves],
    )
    return jax.tree.unflatten(
      structures[0],
      [leaf.reshape((total,) + leaf.shape[2:]) for leaf in found],
    )

  def split_norm_scale(self) -> Float[Array, 'embed']:
    """Weight of the norm that reads the cached states (block k+1's first)."""
    return self.layers[self.config.split_layer].pre_attention_layer_norm.scale


def join_segments(
  question: Int[Array, 'batch question_length *embed']
  | Float[Array, 'batch question_length *embed']
  | Bool[Array, 'batch question_length *embed'],
  passages: Int[Array, 'batch passages passage_length *embed']
  | Float[Array, 'batch passages passage_length *embed']
  | Bool[Array, 'batch passages passage_length *embed'],
) -> Array:
  """Puts the question before each passage.

  Args:
    question: tokens, states or mask of the question.
    passages: the same of the passages.

  Returns:
    [batch * passages, question_length + passage_length, ...].
  """
  batch, num_passages = passages.shape[:2]
  copies = jnp.broadcast_to(
    question[:, None], (batch, num_passages) + question.shape[1:]
  )
  joined = jnp.concatenate([copies, passages], axis=2)
  return joined.reshape((batch * num_passages,) + joined.shape[2:])
