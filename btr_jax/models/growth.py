"""A deeper reader that begins as the shallower one.

New layers are copies of a neighbour whose two output matrices are zero, so
they add nothing until training moves them: the grown reader gives the same
logits as the one it came from (identity blocks in the way of Chen et al. 2016,
Net2Net; the copies are those of Gong et al. 2019, progressive stacking).
What has been learnt is kept, which training a deeper reader from nothing
would have to learn again.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import trees

# Matrices through which a layer reaches the residual stream.
_OUTPUTS = ('attention/out/kernel', 'mlp/wo/kernel')


def _sources(config, lower, upper):
  # Per layer of the grown encoder: the old layer, and whether it is a new copy.
  split, depth = config.split_layer, config.num_encoder_layers
  below = [(layer, False) for layer in range(split)]
  above = [(layer, False) for layer in range(split, depth)]
  return [
    *below,
    *[(split - 1, True)] * lower,
    *above[:1],
    *[(depth - 1, True)] * upper,
    *above[1:],
  ]


def grow(
  config: config_lib.ReaderConfig,
  params: Mapping[str, Any],
  lower: int = 0,
  upper: int = 0,
) -> tuple[config_lib.ReaderConfig, dict[str, Any]]:
  """Adds layers to the encoder that change nothing yet.

  Args:
    config: of the reader.
    params: its nested parameters; a codec's stay as they are.
    lower: layers to add below the split, copies of the last one there.
    upper: layers to add above it, behind the first one there, copies of the
      last.

  Returns:
    Configuration and nested parameters of the grown reader.

  Raises:
    ValueError: a negative number of layers, or none at all.
  """
  for name, count in (('lower', lower), ('upper', upper)):
    if count < 0:
      raise ValueError(f'{name} is {count}; expected 0 or more layers.')
  if not lower + upper:
    raise ValueError('lower and upper are both 0; expected a layer to add.')
  flat = trees.flat_params(params)
  grown = {
    name: value
    for name, value in flat.items()
    if not name.startswith('encoder/layers_')
  }
  sources = _sources(config, lower, upper)
  for place, (layer, new) in enumerate(sources):
    prefix = f'encoder/layers_{layer}/'
    for name, value in flat.items():
      if not name.startswith(prefix):
        continue
      rest = name.removeprefix(prefix)
      silent = new and rest in _OUTPUTS
      grown[f'encoder/layers_{place}/{rest}'] = (
        np.zeros_like(value) if silent else value
      )
  deeper = dataclasses.replace(
    config,
    num_encoder_layers=len(sources),
    split_layer=config.split_layer + lower,
  )
  return deeper, trees.nested_params(grown)
