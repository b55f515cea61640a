"""T5.1.1's building blocks with T5X's parameter names and logical axes.

Every parameter goes through `param_with_axes`, which records its logical axes
in the collection `params_axes`: T5X's partitioner and ours read them there.
"""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax import axes
from btr_jax.models import integers

param_with_axes = nn_partitioning.param_with_axes
with_sharding_constraint = nn_partitioning.with_sharding_constraint

# What `remat='minimal'` keeps: outputs of matrices, not attention's scores.
_REMAT_POLICIES = {
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': None,
}

_FAN_IN = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def constrain(states: Float[Array, '...'], *names: str) -> Float[Array, '...']:
  """Spreads an activation over the mesh by its logical axes, one per axis.

  It does nothing where no mesh is set (`training/partitioning.py`).
  """
  return with_sharding_constraint(states, names)


def constrain_states(
  states: Float[Array, 'batch length embed'],
) -> Float[Array, 'batch length embed']:
  """`constrain` for the residual stream."""
  return constrain(states, axes.BATCH, axes.LENGTH, axes.EMBED)


def remat(
  layer: type[nn.Module], how: str, method: str, deterministic_index: int
) -> type[nn.Module]:
  """A layer that computes its insides again for the gradient.

  Args:
    layer: the class; its parameters keep their names.
    how: one of `config.REMATS`.
    method: what the stack calls, with positional arguments.
    deterministic_index: where `deterministic` stands; `self` is 0.

  Returns:
    The class, or `layer` itself for `none`.
  """
  if how == 'none':
    return layer
  return nn.remat(
    layer,
    policy=_REMAT_POLICIES[how],
    static_argnums=(deterministic_index,),
    methods=[method],
  )


def root_mean_square(
  states: Float[Array, '*batch embed'], epsilon: float = 1e-6
) -> Float[Array, '*batch 1']:
  """sqrt(mean(x^2) + epsilon) over the last axis, in float32."""
  squares = jnp.square(states.astype(jnp.float32))
  return jnp.sqrt(jnp.mean(squares, axis=-1, keepdims=True) + epsilon)


def over_last_axis(
  vector: Float[Array, 'embed'], states: Float[Array, '*batch embed']
) -> Float[Array, '*ones embed']:
  """The vector with leading axes of one, to meet `states` rank for rank."""
  return vector.reshape((1,) * (states.ndim - 1) + vector.shape)


def group_size(total: int, tokens_at_once: int | None, length: int = 1) -> int:
  """How many sequences make a group.

  Args:
    total: number of sequences, which groups of one size make up.
    tokens_at_once: of a group at most; None for one group of all.
    length: tokens of a sequence.

  Returns:
    A divisor of `total`; `total` itself where no other makes groups of an
    eighth of the tokens allowed, because many small ones are slower.
  """
  if tokens_at_once is None:
    return total
  most = min(total, tokens_at_once // length)
  size = next((size for size in range(most, 0, -1) if not total % size), 1)
  return size if 8 * size * length >= tokens_at_once else total


class LayerNorm(nn.Module):
  """T5's RMSNorm: no mean is subtracted, no bias added."""

  embed_dim: int
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.scale = param_with_axes(
      'scale',
      nn.initializers.ones,
      (self.embed_dim,),
      jnp.float32,
      axes=(axes.EMBED,),
      module=self,
    )

  def __call__(
    self, states: Float[Array, '*batch embed']
  ) -> Float[Array, '*batch embed']:
    normed = states.astype(jnp.float32) / root_mean_square(states)
    scaled = normed * over_last_axis(self.scale, normed)
    return scaled.astype(self.dtype)


class Dense(nn.Module):
  """A matrix without bias, [inputs, outputs]."""

  inputs: int
  outputs: int
  kernel_axes: tuple[str, str]
  kernel_init: nn.initializers.Initializer = _FAN_IN
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.kernel = param_with_axes(
      'kernel',
      self.kernel_init,
      (self.inputs, self.outputs),
      jnp.float32,
      axes=self.kernel_axes,
      module=self,
    )

  def __call__(
    self,
    states: Float[Array, '*batch inputs'],
    tokens_at_once: int | None = None,
  ) -> Float[Array, '*batch outputs']:
    # As one matrix of tokens: from three axes, XLA's CPU compiler writes the
    # kernel's gradient by way of a transposed copy of what flows back.
    rows = states.astype(self.dtype).reshape(-1, self.inputs)
    kernel = self.kernel.astype(self.dtype)
    group = group_size(rows.shape[0], tokens_at_once)
    if self.has_variable(integers.GROUP, 'codes'):
      codes, step = (
        self.get_variable(integers.GROUP, name) for name in ('codes', 'step')
      )
      product = integers.dot(rows, codes, step)
    elif group == rows.shape[0]:
      product = jnp.dot(rows, kernel)
    else:
      groups = rows.reshape(-1, group, self.inputs)
      product = jax.lax.map(lambda few: jnp.dot(few, kernel), groups)
    return product.reshape(*states.shape[:-1], self.outputs)


class Embedding(nn.Module):
  """The token embedding, which may also serve as the output matrix."""

  vocab_size: int
  embed_dim: int
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.embedding = param_with_axes(
      'embedding',
      nn.initializers.normal(1.0),
      (self.vocab_size, self.embed_dim),
      jnp.float32,
      axes=(axes.VOCAB, axes.EMBED),
      module=self,
    )

  def __call__(
    self, tokens: Int[Array, '*batch length']
  ) -> Float[Array, '*batch length embed']:
    return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)

  def attend(
    self, states: Float[Array, '*batch embed']
  ) -> Float[Array, '*batch vocab']:
    """Logits from the transposed embedding, scaled as T5X does."""
    states = states.astype(self.dtype) / np.sqrt(self.embed_dim)
    return jnp.dot(states, self.embedding.astype(self.dtype).T)


class MlpBlock(nn.Module):
  """T5.1.1's gated feed-forward layer."""

  embed_dim: int
  mlp_dim: int
  activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.0
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    # T5X names the only input matrix `wi`, several `wi_0`, `wi_1`.
    names = [f'wi_{i}' for i in range(len(self.activations))]
    if len(names) == 1:
      names = ['wi']
    self.wi = [
      Dense(
        self.embed_dim,
        self.mlp_dim,
        (axes.EMBED, axes.MLP),
        dtype=self.dtype,
        name=name,
      )
      for name in names
    ]
    self.wo = Dense(
      self.mlp_dim, self.embed_dim, (axes.MLP, axes.EMBED), dtype=self.dtype
    )
    self.dropout = nn.Dropout(self.dropout_rate)

  def __call__(
    self,
    states: Float[Array, 'batch length embed'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length embed']:
    hidden = 1.0
    for wi, activation in zip(self.wi, self.activations, strict=True):
      act = (lambda x: x) if activation == 'linear' else getattr(nn, activation)
      hidden = hidden * act(wi(states))
    hidden = self.dropout(hidden, deterministic=deterministic)
    hidden = constrain(hidden, axes.BATCH, axes.LENGTH, axes.MLP)
    return self.wo(hidden)
