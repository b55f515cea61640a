"""A BERT encoder, and mean pooling, as pure functions of its parameters.

The parameters keep the names that published checkpoints give them; the
layers' are stacked, so that one layer is compiled and run in a loop. Its parts
(`input_states`, `apply_layer`, `apply_layers`) also make the span reader of
`baselines/span_reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32
import numpy as np

Params = Mapping[str, Any]

_LAYER = 'encoder.layer.'
# Ours by what stands behind 'encoder.layer.N.' in a checkpoint.
_LAYER_PARTS = {
  'query': 'attention.self.query',
  'key': 'attention.self.key',
  'value': 'attention.self.value',
  'out': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'wi': 'intermediate.dense',
  'wo': 'output.dense',
  'mlp_norm': 'output.LayerNorm',
}
_WORDS = 'embeddings.word_embeddings.weight'
_POSITIONS = 'embeddings.position_embeddings.weight'
_TYPES = 'embeddings.token_type_embeddings.weight'
_NORM = 'embeddings.LayerNorm'
# Held by checkpoints, used by no sentence embedding: the pooler of BERT's
# pre-training and a buffer 0, 1, 2, ...
_UNUSED = ('pooler.', 'embeddings.position_ids', 'cls.')


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Architecture, and how states become a sentence's embedding.

  Attributes:
    vocab_size: token ids.
    embed_dim: width of the states.
    num_layers: encoder layers.
    num_heads: attention heads.
    mlp_dim: width of the feed-forward layers.
    num_positions: the longest input.
    norm_epsilon: of the layer norms.
    normalize: scale embeddings to length one.
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  num_positions: int = 512
  norm_epsilon: float = 1e-12
  normalize: bool = False

  def __post_init__(self):
    if self.embed_dim % self.num_heads:
      raise ValueError(
        f'embed_dim {self.embed_dim} is no multiple of num_heads '
        f'{self.num_heads}; check config.json.'
      )


def shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
  """Name and shape of every tensor that a checkpoint must hold."""
  embed, mlp = config.embed_dim, config.mlp_dim
  result = {
    _WORDS: (config.vocab_size, embed),
    _POSITIONS: (config.num_positions, embed),
    f'{_NORM}.weight': (embed,),
    f'{_NORM}.bias': (embed,),
  }
  for layer in range(config.num_layers):
    for part, name in _LAYER_PARTS.items():
      outputs = mlp if part == 'wi' else embed
      inputs = mlp if part == 'wo' else embed
      prefix = f'{_LAYER}{layer}.{name}'
      norm = part.endswith('norm')
      result[f'{prefix}.weight'] = (embed,) if norm else (outputs, inputs)
      result[f'{prefix}.bias'] = (outputs,)
  return result


def from_tensors(
  tensors: Mapping[str, np.ndarray], config: BertConfig, source: str
) -> dict[str, Any]:
  """A checkpoint's tensors as parameters in float32.

  Args:
    tensors: by the names of Hugging Face's BertModel, with or without the
      prefix 'bert.'.
    config: architecture.
    source: where they come from, for the error.

  Returns:
    {'words', 'positions', 'types' (of segments), 'norm', 'layers'}; the
    matrices [inputs, outputs], those of the layers stacked.

  Raises:
    ValueError: missing, unknown or misshapen tensors; names all of them.
  """
  found = {name.removeprefix('bert.'): value for name, value in tensors.items()}
  found = {n: v for n, v in found.items() if not n.startswith(_UNUSED)}
  types = found.pop(_TYPES, None)
  wanted = shapes(config)
  problems = [
    f'{name}: found {found[name].shape if name in found else "none"}, '
    f'expected {wanted.get(name, "none")}'
    for name in sorted(set(wanted) | set(found))
    if name not in found or wanted.get(name) != tuple(found[name].shape)
  ]
  if types is None or types.shape[1:] != (config.embed_dim,):
    problems.append(f'{_TYPES}: expected [types, {config.embed_dim}]')
  if problems:
    shown = ''.join(f'\n  {problem}' for problem in problems[:20])
    raise ValueError(
      f'{source} does not fit its config.json ({len(problems)} tensors):'
      f'{shown}\nExpected a BERT encoder as Hugging Face names it.'
    )

  def take(name: str) -> np.ndarray:
    return np.asarray(found[name], np.float32)

  def stacked(part: str, kind: str) -> np.ndarray:
    name = f'{_LAYER_PARTS[part]}.{kind}'
    return np.stack(
      [take(f'{_LAYER}{i}.{name}') for i in range(config.num_layers)]
    )

  layers: dict[str, dict[str, np.ndarray]] = {}
  for part in _LAYER_PARTS:
    weight = stacked(part, 'weight')
    if not part.endswith('norm'):
      weight = np.ascontiguousarray(weight.swapaxes(1, 2))
    layers[part] = {'weight': weight, 'bias': stacked(part, 'bias')}
  return {
    'words': take(_WORDS),
    'positions': take(_POSITIONS),
    'types': np.asarray(types, np.float32),
    'norm': {'weight': take(f'{_NORM}.weight'), 'bias': take(f'{_NORM}.bias')},
    'layers': layers,
  }


def _norm(states: jax.Array, params: Params, epsilon: float) -> jax.Array:
  mean = states.mean(-1, keepdims=True)
  variance = jnp.square(states - mean).mean(-1, keepdims=True)
  scaled = (states - mean) * jax.lax.rsqrt(variance + epsilon)
  weight, bias = (params[name][None, None, :] for name in ('weight', 'bias'))
  return scaled * weight + bias


def _dense(states: jax.Array, params: Params) -> jax.Array:
  # Accelerators would multiply float32 in less than float32.
  product = jnp.matmul(
    states, params['weight'], precision=jax.lax.Precision.HIGHEST
  )
  return product + params['bias'][None, None, :]


def _attend(
  states: jax.Array, mask: jax.Array, params: Params, num_heads: int
) -> tuple[jax.Array, jax.Array]:
  batch, length, embed = states.shape
  query, key, value = (
    _dense(states, params[name]).reshape(batch, length, num_heads, -1)
    for name in ('query', 'key', 'value')
  )
  highest = jax.lax.Precision.HIGHEST
  scores = jnp.einsum('bqhd,bkhd->bhqk', query, key, precision=highest)
  scores *= (embed // num_heads) ** -0.5
  scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1)
  joined = jnp.einsum('bhqk,bkhd->bqhd', weights, value, precision=highest)
  return _dense(joined.reshape(batch, length, embed), params['out']), weights


def input_states(
  params: Params,
  token_ids: Int32[Array, 'batch length'],
  config: BertConfig,
  *,
  first_position: int = 0,
  segment: int = 0,
) -> Float32[Array, 'batch length embed']:
  """The states that enter the first layer.

  Args:
    params: from `from_tensors`.
    token_ids: one segment of every input.
    config: architecture.
    first_position: where the segment begins; that it ends within
      `num_positions` is for the caller to see to.
    segment: BERT's token type.

  Returns:
    Words, positions and segment, summed and normalised.
  """
  stop = first_position + token_ids.shape[1]
  places = params['positions'][first_position:stop]
  places = places + params['types'][segment][None, :]
  # Parameters may be NumPy arrays, straight from a file.
  states = jnp.asarray(params['words'][token_ids] + places[None])
  return _norm(states, params['norm'], config.norm_epsilon)


def apply_layer(
  states: Float32[Array, 'batch length embed'],
  mask: Bool[Array, 'batch length'],
  params: Params,
  config: BertConfig,
) -> tuple[
  Float32[Array, 'batch length embed'],
  Float32[Array, 'batch heads length length'],
]:
  """One layer: its states, and its attention from query to key.

  Args:
    states: of the layer below.
    mask: the tokens that may be attended to.
    params: one layer's, out of the stack.
    config: architecture.
  """
  attended, weights = _attend(states, mask, params, config.num_heads)
  states = _norm(
    states + attended, params['attention_norm'], config.norm_epsilon
  )
  # BERT's gelu is the exact one, by the error function.
  inner = jax.nn.gelu(_dense(states, params['wi']), approximate=False)
  states = _norm(
    states + _dense(inner, params['wo']),
    params['mlp_norm'],
    config.norm_epsilon,
  )
  return states, weights


def apply_layers(
  states: Float32[Array, 'batch length embed'],
  mask: Bool[Array, 'batch length'],
  layers: Params,
  config: BertConfig,
) -> Float32[Array, 'batch length embed']:
  """All layers of a stack, one after the other."""

  def layer(states, params):
    return apply_layer(states, mask, params, config)[0], None

  return jax.lax.scan(layer, states, layers)[0]


def token_states(
  params: Params,
  token_ids: Int32[Array, 'batch length'],
  mask: Bool[Array, 'batch length'],
  config: BertConfig,
) -> Float32[Array, 'batch length embed']:
  """The last layer's states.

  Args:
    params: from `from_tensors`.
    token_ids: padded on the right; every row has at least one real token.
    mask: where they are real.
    config: architecture.
  """
  states = input_states(params, token_ids, config)
  return apply_layers(states, mask, params['layers'], config)


def embed(
  params: Params,
  token_ids: Int32[Array, 'batch length'],
  mask: Bool[Array, 'batch length'],
  config: BertConfig,
) -> Float32[Array, 'batch embed']:
  """The mean of the last layer's states over real tokens.

  Args:
    params: as for `token_states`, and the next.
    token_ids: padded on the right.
    mask: where they are real.
    config: architecture.

  Returns:
    One embedding per row, of length one if the configuration says so.
  """
  states = token_states(params, token_ids, mask, config)
  real = mask[:, :, None].astype(states.dtype)
  mean = (states * real).sum(1) / real.sum(1)
  if config.normalize:
    length = jnp.sqrt(jnp.square(mean).sum(-1, keepdims=True))
    mean = mean / jnp.maximum(length, 1e-12)
  return mean
