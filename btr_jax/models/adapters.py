"""Low-rank adapters (LoRA, Hu et al. 2022).

A pretrained reader is fitted to a task by adding a product of two thin
matrices to its matrices, to all or to those above the split, and training
these alone:

  kernel + down @ up      down [inputs, rank], up [rank, outputs], up = 0 first

The optimizer keeps moments of the thin matrices only, and what was learnt is a
few hundredths of the reader: readers of one base can be shipped without it
(`interop/deltas.py`). The adapters live in the tree of parameters as one more
group, `adapters`, which `merged` adds to the matrices where a program begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax.linen import partitioning as nn_partitioning
import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import axes
from btr_jax.models import frozen
from btr_jax.models.trees import flat_params, nested_params

GROUP = 'adapters'
DOWN, UP = 'down', 'up'
_KERNEL = '/kernel'


def adapted_names(
  params: Mapping[str, Any], split_layer: int, lower: bool
) -> list[str]:
  """Names of the matrices that get adapters: kernels outside the codec, those
  above the split or, with `lower`, all."""
  return sorted(
    name
    for name, leaf in flat_params(params).items()
    if name.endswith(_KERNEL)
    and len(leaf.shape) == 2
    and not name.startswith((f'{GROUP}/', 'codec/'))
    and (lower or not frozen.is_below_split(name, split_layer))
  )


def initial(
  params: Mapping[str, Any], rng: jax.Array, names: Sequence[str], rank: int
) -> dict[str, Any]:
  """Adapters that change nothing yet.

  Args:
    params: of the reader; only shapes are read.
    rng: key of the thin matrices that read.
    names: of the matrices that get them.
    rank: columns of a thin matrix.

  Returns:
    A tree with `down` and `up`, float32, at the place of each adapted kernel.

  Raises:
    ValueError: a rank below 1.
  """
  if rank < 1:
    raise ValueError(f'ADAPTER_RANK is {rank}; expected 1 or more.')
  flat, found = flat_params(params), {}
  for index, name in enumerate(names):
    inputs, outputs = flat[name].shape
    key = jax.random.fold_in(rng, index)
    down = jax.random.normal(key, (inputs, rank)) / np.sqrt(inputs)
    found[f'{name}/{DOWN}'] = down.astype(jnp.float32)
    found[f'{name}/{UP}'] = jnp.zeros((rank, outputs), jnp.float32)
  return nested_params(found)


def initial_axes(
  params_axes: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
  """Logical axes of `initial`: those of the kernels, the rank on no mesh."""
  flat, found = flat_params(params_axes), {}
  for name in names:
    inputs, outputs = flat[f'{name}_axes'].names
    for part, of_part in (
      (DOWN, (inputs, axes.RANK)),
      (UP, (axes.RANK, outputs)),
    ):
      metadata = nn_partitioning.AxisMetadata(names=of_part)
      found[f'{name}/{part}_axes'] = metadata
  return nested_params(found)


def merged(params: Mapping[str, Any]) -> Mapping[str, Any]:
  """The reader's parameters with their adapters added in.

  Args:
    params: with or without the group `adapters`.

  Returns:
    Parameters without that group; `params` itself where it has none.
  """
  if GROUP not in params:
    return params
  flat = flat_params({k: v for k, v in params.items() if k != GROUP})
  thin = flat_params(params[GROUP])
  for place in sorted(name for name in thin if name.endswith(f'/{DOWN}')):
    name = place.removesuffix(f'/{DOWN}')
    change = jnp.dot(thin[place], thin[f'{name}/{UP}'])
    flat[name] = flat[name] + change.astype(flat[name].dtype)
  return nested_params(flat)


def only_adapters(params: Mapping[str, Any]) -> Any:
  """The parameters, with gradients to the adapters alone."""
  return {
    name: tree if name == GROUP else jax.lax.stop_gradient(tree)
    for name, tree in params.items()
  }
