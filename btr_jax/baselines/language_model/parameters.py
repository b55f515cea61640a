"""Tensors of a file as the parameters of the model, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Shaped
import numpy as np

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import model as model_lib
from btr_jax.baselines.language_model import names
from btr_jax.interop import checkpoint


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor of a file that is read when it is needed.

  Attributes:
    shape: [outputs, inputs] of a matrix.
    read: gives its numbers.
  """

  shape: tuple[int, ...]
  read: Callable[[], Shaped[np.ndarray, '...']]


@functools.lru_cache(maxsize=8)
def abstract_variables(
  config: config_lib.LanguageModelConfig,
) -> dict[str, Any]:
  """`params` and `params_axes` as shapes, without computing anything.

  One layer is traced, for all are alike: tracing 32 would take seconds.
  """
  model = model_lib.LanguageModel(dataclasses.replace(config, num_layers=1))
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
  key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
  variables = jax.eval_shape(model.init, key, tokens, mask)
  result = {}
  for collection, tree in variables.items():
    layer = tree['layers_0']
    rest = {f'layers_{i}': layer for i in range(config.num_layers)}
    result[collection] = {**tree, **rest}
  return result


def shapes(
  config: config_lib.LanguageModelConfig,
) -> dict[str, tuple[int, ...]]:
  """Name and shape of every parameter; matrices are [inputs, outputs]."""
  params = abstract_variables(config)['params']
  flat = traverse_util.flatten_dict(params, sep='/')
  return {name: tuple(value.shape) for name, value in sorted(flat.items())}


def _is_matrix(name: str) -> bool:
  # Kernels lie [outputs, inputs] in files; embeddings and norms as here.
  return name.endswith('/kernel')


def from_tensors(
  tensors: Mapping[str, Stored],
  config: config_lib.LanguageModelConfig,
  source: str,
  *,
  is_gguf: bool = False,
) -> dict[str, Any]:
  """Reads every parameter to the device, in the configuration's dtype.

  Args:
    tensors: by the file's names.
    config: architecture.
    source: where they come from, for the error.
    is_gguf: names and order of dimensions are GGUF's, else Hugging Face's.

  Returns:
    The tree for `model.apply`.

  Raises:
    ConversionError: naming every tensor that is missing, unknown, misshapen
      or no floating-point number.
  """
  rename = names.to_gguf if is_gguf else names.to_hugging_face
  expected = shapes(config)
  ours = {rename(name): name for name in expected}
  wanted = {
    theirs: expected[name][::-1] if _is_matrix(name) else expected[name]
    for theirs, name in ours.items()
  }
  found = names.without_unused(tensors, config)
  problems = []
  for name in sorted(set(wanted) | set(found)):
    if name not in found:
      problems.append(f'{name}: missing, expected {wanted[name]}')
    elif name not in wanted:
      problems.append(f'{name}: unknown, found {found[name].shape}')
    elif found[name].shape != wanted[name]:
      problems.append(
        f'{name}: found {found[name].shape}, expected {wanted[name]}'
      )
  advice = 'The weights and the configuration beside them are of two models.'
  checkpoint.refuse(problems, source, advice)
  dtype = checkpoint.DTYPES[config.dtype]
  result = {}
  for theirs, name in ours.items():
    value = found[theirs].read()
    if value.dtype not in checkpoint.DTYPES.values():
      problems.append(f'{theirs}: dtype {value.dtype}')
      continue
    if is_gguf:
      value = names.from_gguf_order(name, value, config)
    if _is_matrix(name):
      value = value.T
    result[name] = jnp.asarray(np.ascontiguousarray(value, dtype))
  checkpoint.refuse(
    problems, source, f'Expected one of {", ".join(checkpoint.DTYPES)}.'
  )
  return traverse_util.unflatten_dict(result, sep='/')


def num_bytes(params: Any) -> int:
  """Bytes of all parameters, or of their shapes."""
  return sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)
  )
