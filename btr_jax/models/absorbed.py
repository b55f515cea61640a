"""W_K and W_V of the decoder's cross-attention, laid out by head beforehand.

`Attention.attend_absorbed` multiplies by each head's part of the two matrices.
Inside a program their transposition is paid for every question: 3 % of one
with forty passages on a CPU. Here it is done once for a reader: parameters may
hold a group `absorbed` beside the model's own, which `BtrModel.variables` makes
a collection of variables, and `Attention.absorbing_kernels` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from btr_jax.models import adapters

# Of parameters, and the collection of variables.
GROUP = 'absorbed'
_ATTENTION = 'encoder_decoder_attention'

Kernels = tuple[Float[Array, 'heads kv embed'], Float[Array, 'heads embed kv']]


def by_head(
  key: Float[Array, 'embed joined_kv'],
  value: Float[Array, 'embed joined_kv'],
  num_heads: int,
) -> Kernels:
  """The two kernels as `attend_absorbed` multiplies by them."""

  def split(kernel):
    return kernel.reshape(kernel.shape[0], num_heads, -1)

  return split(key).transpose(1, 2, 0), split(value).transpose(1, 0, 2)


def prepared(params: Mapping[str, Any], num_heads: int) -> Mapping[str, Any]:
  """The parameters with the group added.

  Args:
    params: of a reader, its matrices in the type of the activations.
    num_heads: of the reader.

  Returns:
    New parameters; `params` itself where the kernels are small integers or
    change by adapters, which programs work out.
  """
  decoder = params['decoder']
  kernels = {
    layer: {name: tree[_ATTENTION][name]['kernel'] for name in ('key', 'value')}
    for layer, tree in decoder.items()
    if _ATTENTION in tree
  }
  quantized = any(
    isinstance(kernel, Mapping)
    for pair in kernels.values()
    for kernel in pair.values()
  )
  if quantized or adapters.GROUP in params:
    return params
  return {**params, GROUP: _laid_out(kernels, num_heads)}


@functools.partial(jax.jit, static_argnames='num_heads')
def _laid_out(kernels, num_heads):
  decoder = {}
  for layer, pair in kernels.items():
    key, value = by_head(pair['key'], pair['value'], num_heads)
    decoder[layer] = {_ATTENTION: {'key': key, 'value': value}}
  return {'decoder': decoder}
