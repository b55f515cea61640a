"""A start from which small readers learn to copy within minutes.

A reader's core skill is to find a token of the question in a passage and to
copy what stands beside it. From T5's initialisers a small model needs many
thousand steps until its attention matches equal tokens at all. Mimetic
initialisation (Trockman and Kolter, ICML 2023) starts attention where trained
models have been seen to end:

* query and key share one orthogonal matrix, so that equal tokens attend to
  each other from the first step;
* out is the transpose of value, so that attending copies;
* one head of each stack looks at the token before, one (in the encoder) at
  the token after, through the relative position bias, which Adam would need
  thousands of steps to raise to such values.

All shapes, names and the function computed are T5's; only the values at
step 0 differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import config as config_lib

# Score by which the neighbour outweighs every other position at the start.
_NEIGHBOUR_BIAS = 5.0
# Fall-off per token of the encoder's third head: a soft local window.
_LOCAL_SLOPE = 0.25

_ATTENTIONS = ('attention', 'self_attention', 'encoder_decoder_attention')


def _mimetic_attention(
  params: Mapping[str, Any], rng: jax.Array, config: config_lib.ReaderConfig
) -> dict[str, Any]:
  orthogonal = jax.nn.initializers.orthogonal()
  joined = config.num_heads * config.head_dim
  shape = (config.embed_dim, joined)
  match_rng, copy_rng = jax.random.split(rng)
  match = orthogonal(match_rng, shape, jnp.float32)
  copy = orthogonal(copy_rng, shape, jnp.float32)
  kernels = {
    'query': match / np.sqrt(config.head_dim),  # T5 folds the scale in here.
    'key': match,
    'value': copy,
    'out': copy.T,
  }
  return {**params, **{name: {'kernel': k} for name, k in kernels.items()}}


def _mimetic_bias(params, config, bidirectional):
  bias = jnp.zeros_like(params['rel_embedding'])
  half = config.relpos_buckets // 2
  # attention.relative_position_buckets: distance d before is bucket d; behind,
  # which only the encoder sees, half + d.
  bias = bias.at[0, 1].set(_NEIGHBOUR_BIAS)
  if bidirectional:
    bias = bias.at[1, half + 1].set(_NEIGHBOUR_BIAS)
    if config.num_heads > 2:
      distance = jnp.arange(config.relpos_buckets) % half
      bias = bias.at[2].set(-_LOCAL_SLOPE * distance)
  return {'rel_embedding': bias}


def mimetic(
  params: Mapping[str, Any], rng: jax.Array, config: config_lib.ReaderConfig
) -> dict[str, Any]:
  """Replaces attention's initial values; everything else is kept.

  Args:
    params: parameters from T5's initialisers.
    rng: key for the orthogonal matrices.
    config: architecture; at least two heads.

  Returns:
    Parameters of the same structure.
  """
  result = dict(params)
  for stack_index, stack in enumerate(('encoder', 'decoder')):
    layers = dict(params[stack])
    layers['relpos_bias'] = _mimetic_bias(
      layers['relpos_bias'], config, bidirectional=stack == 'encoder'
    )
    for name in sorted(layers):
      if not name.startswith('layers_'):
        continue
      layer = dict(layers[name])
      number = int(name.removeprefix('layers_'))
      for kind, attention in enumerate(_ATTENTIONS):
        if attention in layer:
          key = jax.random.fold_in(rng, 1000 * stack_index + 10 * number + kind)
          layer[attention] = _mimetic_attention(layer[attention], key, config)
      layers[name] = layer
    result[stack] = layers
  return result
