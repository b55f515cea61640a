"""Matrices stored as small integers, which a reader's parameters may hold.

In place of a matrix [rows, columns] the tree has a node of two arrays:

  codes  int8 [rows, columns], or uint8 [rows / 2, columns] for four bits:
         row r in the lower half of a byte, row r + rows / 2 in the upper,
         both 8 above their value
  scale  [row blocks, column blocks], one for each block of equal size

An element is its code times the scale of its block. The node says all of this
by types and shapes, so it passes through files and programs like any other
parameters, and `dequantize_params` is all that a program needs. It belongs
inside the program: what is moved and kept are then the small integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, UInt8
import numpy as np

CODES = 'codes'
SCALE = 'scale'
BITS = (4, 8)
_OFFSET = 8


def pack(
  codes: Int8[np.ndarray, 'rows columns'],
) -> UInt8[np.ndarray, 'half columns']:
  """Codes of four bits, two to a byte.

  Raises:
    ValueError: an odd number of rows, or a code beyond -8 to 7.
  """
  rows = codes.shape[0]
  if rows % 2:
    raise ValueError(
      f'The matrix has {rows} rows; codes of four bits are packed in pairs of '
      'rows, so expected an even number. Use 8 bits for it.'
    )
  if codes.min(initial=0) < -_OFFSET or codes.max(initial=0) >= _OFFSET:
    raise ValueError(
      f'Codes run from {codes.min()} to {codes.max()}; four bits hold -8 to 7.'
    )
  shifted = (codes + _OFFSET).astype(np.uint8)
  return shifted[: rows // 2] | shifted[rows // 2 :] << 4


def unpack(
  packed: UInt8[Array | np.ndarray, 'half columns'],
) -> Int8[Array, 'rows columns']:
  """The inverse of `pack`, to be traced."""
  packed = jnp.asarray(packed)
  shifted = jnp.concatenate([packed & 15, packed >> 4], axis=0)
  return shifted.astype(jnp.int8) - _OFFSET


def dequantize(
  node: Mapping[str, Any], dtype: str | jnp.dtype = 'float32'
) -> Float[Array, 'rows columns']:
  """The matrix that a node stands for.

  Args:
    node: `codes` and `scale`, as the module describes them.
    dtype: of the result.

  Raises:
    ValueError: another type of codes, or blocks that do not fit the matrix.
  """
  codes, scale = jnp.asarray(node[CODES]), jnp.asarray(node[SCALE])
  if codes.dtype == jnp.uint8:
    codes = unpack(codes)
  elif codes.dtype != jnp.int8:
    raise ValueError(
      f'Codes are {codes.dtype}; expected int8, or uint8 for four bits.'
    )
  if len(scale.shape) != 2 or any(
    not blocks or size % blocks
    for size, blocks in zip(codes.shape, scale.shape, strict=True)
  ):
    raise ValueError(
      f'Scales {scale.shape} do not divide the matrix {codes.shape} into equal '
      'blocks; the file is damaged, or of another version.'
    )
  (rows, columns), (down, across) = codes.shape, scale.shape
  blocks = codes.reshape(down, rows // down, across, columns // across)
  values = blocks.astype(dtype) * scale.astype(dtype)[:, None, :, None]
  return values.reshape(rows, columns)


def is_node(value: Any) -> bool:
  """Whether this is what stands in a tree in place of a matrix."""
  return isinstance(value, Mapping) and set(value) == {CODES, SCALE}


def dequantize_params(
  params: Mapping[str, Any], dtype: str | jnp.dtype = 'float32'
) -> Mapping[str, Any]:
  """Parameters with matrices in place of nodes; others stay as they are."""
  return jax.tree.map(
    lambda leaf: dequantize(leaf, dtype) if is_node(leaf) else leaf,
    params,
    is_leaf=is_node,
  )


def stored_names(names: set[str]) -> set[str]:
  """Of flat names, those of codes and scales: types that are to be kept."""
  nodes = {name.rpartition('/')[0] for name in names if name.endswith('/codes')}
  return {f'{node}/{part}' for node in nodes for part in (CODES, SCALE)} & names
