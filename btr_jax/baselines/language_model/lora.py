"""Low-rank updates as a tree of their own, beside untouched parameters.

The tree has the model's structure with `down` [inputs, rank] and `up`
[rank, outputs] in place of each adapted kernel. In training it is given to the
model as the collection `lora`; to answer, it is merged into the kernels.
"""

from __future__ import annotations

from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import parameters


def shapes(
  config: config_lib.LanguageModelConfig, lora: config_lib.LoraConfig
) -> dict[str, tuple[int, int]]:
  """Name and shape of every matrix of the updates."""
  result = {}
  for name, shape in parameters.shapes(config).items():
    place, _, leaf = name.rpartition('/')
    if leaf == 'kernel' and place.rpartition('/')[2] in lora.targets:
      result[f'{place}/down'] = (shape[0], lora.rank)
      result[f'{place}/up'] = (lora.rank, shape[1])
  return result


def initial(
  config: config_lib.LanguageModelConfig,
  lora: config_lib.LoraConfig,
  seed: int,
) -> dict[str, Any]:
  """Updates of zero: `down` is uniform within 1/sqrt(inputs), `up` zero.

  Drawn by NumPy: JAX would compile a program for each shape.

  Args:
    config: architecture.
    lora: rank and targets.
    seed: of the random numbers.

  Returns:
    The tree in float32, whatever the model's dtype: the steps are small.
  """
  wanted = shapes(config, lora)
  result = {}
  generator = np.random.default_rng(seed)
  for name, shape in wanted.items():
    values = np.zeros(shape, np.float32)
    if name.endswith('/down'):
      bound = 1.0 / np.sqrt(shape[0])
      values[:] = generator.uniform(-bound, bound, shape)
    result[name] = jnp.asarray(values)
  return traverse_util.unflatten_dict(result, sep='/')


@jax.jit
def _add(kernel, down, up, scale):
  # Not in bfloat16: the update is small beside the kernel.
  update = jnp.dot(down, up, precision=jax.lax.Precision.HIGHEST) * scale
  return (kernel + update).astype(kernel.dtype)


def merged(
  params: Any, updates: Any, lora: config_lib.LoraConfig
) -> dict[str, Any]:
  """Parameters with the updates added to their kernels.

  Args:
    params: of the model; not changed.
    updates: a tree as `initial` makes it.
    lora: what it was trained with.

  Returns:
    A tree of the same structure and dtypes as `params`, which shares every
    parameter that has no update.

  Raises:
    ValueError: an update fits no kernel.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  small = traverse_util.flatten_dict(updates, sep='/')
  for name, up in small.items():
    place, _, leaf = name.rpartition('/')
    if leaf != 'up':
      continue
    down = small[f'{place}/down']
    kernel = flat.get(f'{place}/kernel')
    if kernel is None or kernel.shape != (down.shape[0], up.shape[1]):
      found = None if kernel is None else kernel.shape
      raise ValueError(
        f'The LoRA update of {place} has shape '
        f'{(down.shape[0], up.shape[1])} and the kernel {found}; expected '
        'updates of this very model.'
      )
    flat[f'{place}/kernel'] = _add(kernel, down, up, lora.scale)
  return traverse_util.unflatten_dict(flat, sep='/')
