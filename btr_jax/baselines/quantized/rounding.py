"""A matrix to integers of few bits: to the nearest, and by GPTQ.

A matrix [inputs, outputs] is cut into groups of inputs; each group of each
output has one scale. Both ways share the scales, so that they differ in the
choice of the integers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Float16, Int8
import numpy as np

from btr_jax.models import quantized

# A scale must stay above zero in float16, also for a group of zeros.
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)
# Shares of the largest value that a group's range is tried with: with few
# bits, it pays to cut the largest values off.
_SHRINK = np.linspace(1.0, 0.6, 9)
# Inputs that GPTQ handles before it updates all that follow at once.
_BLOCK = 128


def largest_group(inputs: int, group_size: int) -> int:
  """The largest size up to `group_size` that divides the inputs."""
  if group_size < 1:
    raise ValueError(f'group_size is {group_size}; expected at least 1.')
  return next(
    size for size in range(min(group_size, inputs), 0, -1) if inputs % size == 0
  )


def highest_code(bits: int) -> int:
  """7 for four bits, 127 for eight; the lowest is one further from zero.

  Raises:
    ValueError: another number of bits.
  """
  if bits not in quantized.BITS:
    raise ValueError(
      f'bits is {bits}; expected one of {quantized.BITS}: two codes to a byte, '
      'or one.'
    )
  return 2 ** (bits - 1) - 1


def group_scales(
  matrix: Float[np.ndarray, 'inputs outputs'], bits: int, group_size: int
) -> Float16[np.ndarray, 'groups outputs']:
  """The scale of each group that rounding to the nearest loses least with.

  Args:
    matrix: the weights.
    bits: 4 or 8.
    group_size: inputs of a group at most; see `largest_group`.
  """
  highest = highest_code(bits)
  inputs, outputs = matrix.shape
  groups = matrix.reshape(-1, largest_group(inputs, group_size), outputs)
  largest = np.abs(groups).max(axis=1)
  best = np.full(largest.shape, np.inf)
  scales = np.zeros(largest.shape, np.float16)
  for shrink in _SHRINK:
    tried = np.maximum(largest * shrink / highest, _SMALLEST_SCALE)
    tried = tried.astype(np.float16)
    each = tried.astype(np.float64)[:, None]
    codes = np.clip(np.rint(groups / each), -highest - 1, highest)
    errors = np.square(codes * each - groups).sum(axis=1)
    better = errors < best
    best[better], scales[better] = errors[better], tried[better]
  return scales


def round_nearest(
  matrix: Float[np.ndarray, 'inputs outputs'], bits: int, group_size: int
) -> tuple[
  Int8[np.ndarray, 'inputs outputs'], Float16[np.ndarray, 'groups outputs']
]:
  """Codes and scales, each weight by itself."""
  scales = group_scales(matrix, bits, group_size)
  each = np.repeat(scales.astype(np.float64), len(matrix) // len(scales), 0)
  highest = highest_code(bits)
  codes = np.clip(np.rint(matrix / each), -highest - 1, highest)
  return codes.astype(np.int8), scales


def gptq(
  matrix: Float[np.ndarray, 'inputs outputs'],
  second_moment: Float[np.ndarray, 'inputs inputs'],
  bits: int,
  group_size: int,
  damping: float = 0.01,
) -> tuple[
  Int8[np.ndarray, 'inputs outputs'], Float16[np.ndarray, 'groups outputs']
]:
  """Codes that keep the products with real inputs, not the weights.

  The inputs are rounded one after the other, those that are largest on
  average first, and what one loses is made up by those that are not rounded
  yet (Frantar et al. 2023, GPTQ; scales are fixed beforehand, so that their
  groups stay in place whatever the order).

  Args:
    matrix: the weights.
    second_moment: mean of x x^T over the layer's inputs x.
    bits: 4 or 8.
    group_size: inputs of a group at most.
    damping: added to the diagonal, as a share of its mean.

  Returns:
    Codes and scales.

  Raises:
    ValueError: a second moment of another size, or one that is not finite.
  """
  inputs = len(matrix)
  if second_moment.shape != (inputs, inputs):
    raise ValueError(
      f'The second moment is {second_moment.shape}, the matrix has {inputs} '
      'inputs; expected a square of that size.'
    )
  if not np.isfinite(second_moment).all():
    raise ValueError(
      "The second moment of a layer's inputs is not finite; the reader's "
      'weights are damaged.'
    )
  scales = group_scales(matrix, bits, group_size)
  each = np.repeat(scales.astype(np.float64), inputs // len(scales), 0)
  highest = highest_code(bits)

  order = np.argsort(-np.diag(second_moment), kind='stable')
  left = matrix[order].astype(np.float64)
  each = each[order]
  factor = _factor(second_moment[np.ix_(order, order)], damping)
  codes = np.empty((inputs, matrix.shape[1]), np.int8)
  for start in range(0, inputs, _BLOCK):
    stop = min(start + _BLOCK, inputs)
    lost = np.empty((stop - start, matrix.shape[1]))
    for row in range(start, stop):
      code = np.clip(np.rint(left[row] / each[row]), -highest - 1, highest)
      codes[order[row]] = code
      error = (left[row] - code * each[row]) / factor[row, row]
      left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], error)
      lost[row - start] = error
    left[stop:] -= factor[start:stop, stop:].T @ lost
  return codes, scales


def _factor(second_moment: np.ndarray, damping: float) -> np.ndarray:
  """The upper triangle U with U^T U = the inverse of the damped moment."""
  moment = second_moment.astype(np.float64)
  # An input that is always 0 costs nothing, however it is rounded.
  moment[np.diag_indices_from(moment)] += max(
    damping * float(np.mean(np.diag(moment))), np.finfo(np.float32).tiny
  )
  return np.linalg.cholesky(np.linalg.inv(moment)).T


def restored(
  codes: Int8[np.ndarray, 'inputs outputs'],
  scales: Float16[np.ndarray, 'groups outputs'],
) -> Float[np.ndarray, 'inputs outputs']:
  """The matrix that codes and scales stand for, float32."""
  each = np.repeat(scales.astype(np.float32), len(codes) // len(scales), 0)
  return codes * each


def output_error(
  matrix: Float[np.ndarray, 'inputs outputs'],
  changed: Float[np.ndarray, 'inputs outputs'],
  second_moment: Float[np.ndarray, 'inputs inputs'],
) -> float:
  """Mean square of what the outputs lost, as a share of their mean square."""

  def power(weights):
    weights = weights.astype(np.float64)
    return float(np.sum(weights * (second_moment @ weights)))

  whole = power(matrix)
  return power(matrix - changed) / whole if whole > 0 else 0.0


def node(
  codes: Int8[np.ndarray, 'rows columns'],
  scales: Float16[np.ndarray, 'down across'],
  bits: int,
) -> Mapping[str, Any]:
  """What stands in a reader's parameters in place of the matrix."""
  stored = quantized.pack(codes) if bits == 4 else codes
  return {quantized.CODES: stored, quantized.SCALE: scales}
