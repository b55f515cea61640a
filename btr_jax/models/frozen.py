"""Training above the split alone: what cached passages depend on stays.

A cache holds what the lower layers and the codec made of each passage. A
reader whose upper layers and decoder alone are trained keeps its caches, and
can be trained *from* a cache: no lower layer runs over passages, forward or
backward (LUMEN's frozen memory, de Jong et al. 2023, on BTR's bits).
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import re
from typing import Any

import jax
import numpy as np

from btr_jax import config as config_lib

_LAYER = re.compile(r'encoder/layers_(\d+)/(.*)')
# Read by codecs that work behind the norm of the first upper layer.
_SPLIT_NORM = 'pre_attention_layer_norm/scale'
_BELOW = ('token_embedder/', 'encoder/relpos_bias/', 'codec/')
# Fields of the configuration that matter while a reader is trained only.
_OF_TRAINING = ('dropout_rate', 'initializer')


def is_below_split(name: str, split_layer: int) -> bool:
  """Whether cached passages depend on a parameter.

  Args:
    name: such as 'encoder/layers_0/attention/query/kernel'.
    split_layer: k of the paper.

  Returns:
    True for embedding, position bias, codec, the layers below the split, and
    the norm that reads the cached states. The layers above the split share the
    first two with them, so they stay too.
  """
  layer = _LAYER.fullmatch(name)
  if layer is None:
    return name.startswith(_BELOW)
  index, rest = int(layer[1]), layer[2]
  return index < split_layer or (index == split_layer and rest == _SPLIT_NORM)


def _name(path) -> str:
  return '/'.join(str(getattr(key, 'key', key)) for key in path)


def below_split(params: Mapping[str, Any], split_layer: int) -> Any:
  """`is_below_split` of each parameter, in the structure of `params`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: is_below_split(_name(path), split_layer), params
  )


def fingerprint(
  params: Mapping[str, Any], config: config_lib.ReaderConfig
) -> str:
  """SHA-256 of all that cached passages depend on.

  Args:
    params: parameters; compared by their values in float32.
    config: the architecture and codec.

  Returns:
    Hexadecimal digits, the same for readers that differ above the split only.
  """
  described = {
    name: value
    for name, value in config.to_dict().items()
    if name not in _OF_TRAINING
  }
  digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for name, leaf in sorted((_name(path), leaf) for path, leaf in leaves):
    if is_below_split(name, config.split_layer):
      digest.update(f'{name} {leaf.shape}'.encode())
      digest.update(np.asarray(leaf, np.float32).tobytes())
  return digest.hexdigest()


def stop_below_split(params: Mapping[str, Any], split_layer: int) -> Any:
  """The parameters, with no gradient to those below the split.

  Backward passes through the lower layers then drop out of the program.
  """
  return jax.tree.map(
    lambda leaf, below: jax.lax.stop_gradient(leaf) if below else leaf,
    params,
    below_split(params, split_layer),
  )
