"""Attention with T5's relative position bias, in every form it is needed.

Attention has no 1/sqrt(head_dim): T5 folds it into the query's initialiser.
It has no bias in its projections either, and none of positions towards the
memory, which is why keys and values of the memory need not be computed at all
(`Attention.attend_absorbed`).
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from btr_jax import axes
from btr_jax.models import absorbed, layers

# Added to masked scores. Not -inf: a padded query row has no key at all, and
# its softmax must stay finite.
MASKED = -1e9

_FAN_IN_NORMAL = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')


def relative_position_buckets(
  relative_position: Int[np.ndarray, '*shape'],
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> Int[np.ndarray, '*shape']:
  """T5's buckets: exact for short distances, logarithmic up to max_distance.

  By NumPy, so that a program holds the buckets and computes no logarithms.

  Args:
    relative_position: position of the key minus position of the query.
    bidirectional: half of the buckets for keys after the query.
    num_buckets: number of buckets in all.
    max_distance: all distances from here on share the last bucket.

  Returns:
    Bucket indices, int32. (Raffel et al. 2020, section 2.1, as in T5X.)
  """
  buckets = np.zeros(relative_position.shape, np.int32)
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    buckets += (distance < 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(distance, 0)
  num_exact = num_buckets // 2
  # T5X adds the epsilon, in float32, against the logarithm of 0.
  relative = distance.astype(np.float32) / np.float32(num_exact)
  logarithmic = num_exact + (
    np.log(relative + np.finfo(np.float32).eps)
    / np.float32(np.log(max_distance / num_exact))
    * np.float32(num_buckets - num_exact)
  ).astype(np.int32)
  logarithmic = np.minimum(logarithmic, num_buckets - 1)
  return buckets + np.where(distance < num_exact, distance, logarithmic)


class RelativePositionBias(nn.Module):
  """One bias per head and bucket, shared by all layers of a stack."""

  num_heads: int
  num_buckets: int
  max_distance: int
  bidirectional: bool
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.rel_embedding = layers.param_with_axes(
      'rel_embedding',
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=(axes.HEADS, axes.RELPOS_BUCKETS),
      module=self,
    )

  def __call__(
    self,
    query_positions: Int[np.ndarray, 'queries'],
    key_positions: Int[np.ndarray, 'keys'],
  ) -> Float[Array, '1 heads queries keys']:
    relative = key_positions[None, :] - query_positions[:, None]
    return self._look_up(relative)[None].astype(self.dtype)

  def _look_up(self, relative):
    buckets = relative_position_buckets(
      relative, self.bidirectional, self.num_buckets, self.max_distance
    )
    return jnp.take(self.rel_embedding, buckets, axis=1, mode='clip')

  def gathered(
    self, positions: Int[Array, 'batch length'], max_position: int
  ) -> Float[Array, 'batch heads length length']:
    """The bias between tokens that stand at these positions.

    Args:
      positions: of each token, which may repeat and leave gaps.
      max_position: no position is larger.
    """
    distances = np.arange(-max_position, max_position + 1, dtype=np.int32)
    by_distance = self._look_up(distances[None, :])[:, 0].astype(self.dtype)
    relative = positions[:, None, :] - positions[:, :, None] + max_position
    return jnp.moveaxis(jnp.take(by_distance, relative, axis=1), 0, 1)


def padding_bias(
  key_mask: Bool[Array, 'batch keys'],
) -> Float[Array, 'batch 1 1 keys']:
  """Zero for real keys, MASKED for padding."""
  return jnp.where(key_mask, 0.0, MASKED)[:, None, None, :]


class Attention(nn.Module):
  """Multi-head attention whose keys and values can be computed beforehand."""

  embed_dim: int
  num_heads: int
  head_dim: int
  dropout_rate: float = 0.0
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    joined = self.num_heads * self.head_dim

    def query_init(key, shape, dtype):
      return _FAN_IN_NORMAL(key, shape, dtype) / np.sqrt(self.head_dim)

    def project(kernel_init):
      return layers.Dense(
        self.embed_dim,
        joined,
        (axes.EMBED, axes.JOINED_KV),
        kernel_init,
        self.dtype,
      )

    self.query = project(query_init)
    self.key = project(_FAN_IN_NORMAL)
    self.value = project(_FAN_IN_NORMAL)
    self.out = layers.Dense(
      joined,
      self.embed_dim,
      (axes.JOINED_KV, axes.EMBED),
      _FAN_IN_NORMAL,
      self.dtype,
    )
    self.dropout = nn.Dropout(self.dropout_rate)

  def _split_heads(self, states):
    # [batch, length, joined_kv] -> [batch, heads, length, kv]
    batch, length, _ = states.shape
    heads = states.reshape(batch, length, self.num_heads, self.head_dim)
    return layers.constrain(
      heads.transpose(0, 2, 1, 3), axes.BATCH, axes.HEADS, axes.LENGTH, axes.KV
    )

  def keys_and_values(
    self,
    states: Float[Array, 'batch keys embed'],
    tokens_at_once: int | None = None,
  ) -> tuple[
    Float[Array, 'batch heads keys kv'], Float[Array, 'batch heads keys kv']
  ]:
    """Projects the states attended to: once, however often they are read."""
    return (
      self._split_heads(self.key(states, tokens_at_once)),
      self._split_heads(self.value(states, tokens_at_once)),
    )

  def mean_keys(
    self, states: Float[Array, 'batch keys embed']
  ) -> Float[Array, 'batch keys kv']:
    """Keys averaged over the heads, without computing those of each head."""
    by_head = self.key.kernel.reshape(-1, self.num_heads, self.head_dim)
    kernel = jnp.mean(by_head, axis=1).astype(self.dtype)
    return jnp.dot(states.astype(self.dtype), kernel)

  def absorbing_kernels(
    self,
  ) -> tuple[Float[Array, 'heads kv embed'], Float[Array, 'heads embed kv']]:
    """W_K and W_V by head, laid out as `attend_absorbed` multiplies by them."""
    if self.has_variable(absorbed.GROUP, 'key'):
      key, value = (
        self.get_variable(absorbed.GROUP, name) for name in ('key', 'value')
      )
      return key.astype(self.dtype), value.astype(self.dtype)
    key, value = self.key.kernel, self.value.kernel
    return absorbed.by_head(
      key.astype(self.dtype), value.astype(self.dtype), self.num_heads
    )

  def attend_absorbed(
    self,
    query_states: Float[Array, 'batch queries embed'],
    memory: Float[Array, 'batch keys embed'],
    bias: Float[Array, '#batch 1 1 keys'],
    kernels: tuple[
      Float[Array, 'heads kv embed'], Float[Array, 'heads embed kv']
    ],
    transposed: Float[Array, 'batch embed keys'] | None = None,
  ) -> Float[Array, 'batch queries embed']:
    """`attend` to the memory's own states, whose keys are never computed.

    With E the memory, q . (E W_K) = (q W_K^T) . E and
    softmax . (E W_V) = (softmax . E) W_V: the same numbers, but for rounding.

    Args:
      query_states: what asks.
      memory: what is asked.
      bias: added to the scores.
      kernels: from `absorbing_kernels`, once for all steps: a transposition
        in each costs as much as the products.
      transposed: the memory, for processors that multiply by it faster so.

    Returns:
      The outputs.
    """

    def columns(matrices):
      # Behind a barrier, or the compiler makes one product of both again.
      return jax.lax.optimization_barrier(matrices.transpose(0, 2, 1))

    queries = self._split_heads(self.query(query_states))
    batch, heads, length, _ = queries.shape
    rows = jnp.einsum('bhqd,hde->bhqe', queries, kernels[0])
    # Heads and queries are rows of one matrix: all heads share the memory.
    rows = rows.reshape(batch, heads * length, -1)
    if transposed is None:
      scores = jnp.einsum('bre,bke->brk', rows, memory)
    else:
      scores = jnp.einsum('ber,bek->brk', columns(rows), transposed)
    scores = scores.astype(jnp.float32) + bias[:, 0].astype(jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
    if transposed is None:
      mixed = jnp.einsum('brk,bke->bre', weights, memory)
    else:
      mixed = jnp.einsum('bkr,bke->bre', columns(weights), memory)
    mixed = mixed.reshape(batch, heads, length, -1)
    joined = jnp.einsum('bhqe,hed->bqhd', mixed, kernels[1])
    joined = joined.reshape(batch, length, heads * self.head_dim)
    return self.out(joined)

  def attend(
    self,
    query_states: Float[Array, 'batch queries embed'],
    keys: Float[Array, 'batch heads keys kv'],
    values: Float[Array, 'batch heads keys kv'],
    bias: Float[Array, '#batch #heads #queries keys'],
    deterministic: bool = True,
  ) -> tuple[
    Float[Array, 'batch queries embed'],
    Float[Array, 'batch heads queries keys'],
  ]:
    """Returns the outputs and the attention weights (before dropout)."""
    queries = self._split_heads(self.query(query_states))
    scores = jnp.einsum('bhqd,bhkd->bhqk', queries, keys)
    scores = scores.astype(jnp.float32) + bias.astype(jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
    dropped = self.dropout(weights, deterministic=deterministic)
    mixed = jnp.einsum('bhqk,bhkd->bhqd', dropped, values)
    batch, _, length, _ = mixed.shape
    # [batch, heads, queries, kv] -> [batch, queries, joined_kv]
    joined = mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    joined = layers.constrain(joined, axes.BATCH, axes.LENGTH, axes.JOINED_KV)
    return self.out(joined), weights

  def __call__(
    self,
    states: Float[Array, 'batch length embed'],
    bias: Float[Array, '#batch #heads #length length'],
    deterministic: bool = True,
  ) -> tuple[
    Float[Array, 'batch length embed'],
    Float[Array, 'batch heads length length'],
  ]:
    """Self-attention."""
    keys, values = self.keys_and_values(states)
    return self.attend(states, keys, values, bias, deterministic)
