"""Products of the encoder in eight bits, for processors that are fast at them.

Both sides are rounded: a matrix in steps of its own for every output, the
states in steps of their own for every token, found as they come (dynamic
quantization; no calibration). The products of whole numbers are exact sums in
32 bits; the two steps multiply what comes out.

As `absorbed` does, this prepares a reader once: parameters may hold a group
`integers` beside the model's own, which `BtrModel.variables` makes a collection
of variables, and a `Dense` layer that finds its codes there multiplies by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from btr_jax.models import adapters

# Of parameters, and the collection of variables.
GROUP = 'integers'
_LARGEST = 127
# Rows or columns of zeros divide by this and stay zeros.
_LEAST_STEP = 1e-30


def rounded(
  matrix: Float[Array, 'rows columns'], axis: int
) -> tuple[Int8[Array, 'rows columns'], Float[Array, '_rows _columns']]:
  """The nearest codes of -127 to 127, and the step of each row or column.

  Args:
    matrix: to be rounded.
    axis: along which all numbers share a step.
  """
  matrix = matrix.astype(jnp.float32)
  largest = jnp.max(jnp.abs(matrix), axis=axis, keepdims=True)
  step = jnp.maximum(largest / _LARGEST, _LEAST_STEP)
  return jnp.round(matrix / step).astype(jnp.int8), step


def dot(
  rows: Float[Array, 'tokens inputs'],
  codes: Int8[Array, 'inputs outputs'],
  step: Float[Array, '1 outputs'],
) -> Float[Array, 'tokens outputs']:
  """The product with a rounded matrix, in the type of `rows`."""
  row_codes, row_step = rounded(rows, axis=1)
  product = jax.lax.dot_general(
    row_codes,
    codes,
    (((1,), (0,)), ((), ())),
    preferred_element_type=jnp.int32,
  )
  return (product.astype(jnp.float32) * row_step * step).astype(rows.dtype)


def prepared(params: Mapping[str, Any]) -> Mapping[str, Any]:
  """The parameters with codes of all kernels of the encoder's layers added.

  Args:
    params: of a reader.

  Raises:
    ValueError: matrices that are small integers already, or that adapters
      change.
  """
  if adapters.GROUP in params:
    raise ValueError(
      'int8_products is True, but the reader has adapters, which change its '
      'matrices inside every program; merge them first (btr delta apply).'
    )

  def codes(path, tree):
    if 'kernel' not in tree:
      return {
        name: codes((*path, name), inner)
        for name, inner in tree.items()
        if isinstance(inner, Mapping)
      }
    if isinstance(tree['kernel'], Mapping):
      raise ValueError(
        f'int8_products is True, but {"/".join(path)} is stored in small '
        'integers; take the reader that it was quantized from.'
      )
    found, step = _rounded(tree['kernel'])
    return {'codes': found, 'step': step}

  layers = {
    name: codes(('encoder', name), tree)
    for name, tree in params['encoder'].items()
    if name.startswith('layers_')
  }
  return {**params, GROUP: {'encoder': layers}}


@jax.jit
def _rounded(kernel):
  return rounded(kernel, axis=0)
