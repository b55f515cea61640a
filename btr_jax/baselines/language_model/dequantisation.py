"""ggml's block formats back into float32.

A block holds a few scales and the small integers of 32 (Q4_0, Q4_1, Q5_0,
Q5_1, Q8_0) or 256 (Q6_K) numbers in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

from jaxtyping import Float32, Shaped, UInt8
import ml_dtypes
import numpy as np

from btr_jax.interop.checkpoint import ConversionError

# By ggml's number.
BY_NUMBER = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  6: 'Q5_0',
  7: 'Q5_1',
  8: 'Q8_0',
  14: 'Q6_K',
  30: 'BF16',
}
_PLAIN = {
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
# Numbers of a block, and its bytes.
_BLOCKS = {
  'Q4_0': (32, 18),
  'Q4_1': (32, 20),
  'Q5_0': (32, 22),
  'Q5_1': (32, 24),
  'Q8_0': (32, 34),
  'Q6_K': (256, 210),
}


def stored_bytes(shape: Sequence[int], kind: str) -> int:
  """Bytes of a tensor in the file.

  Raises:
    ConversionError: its rows do not fall into whole blocks.
  """
  if kind in _PLAIN:
    return math.prod(shape) * _PLAIN[kind].itemsize
  numbers, size = _BLOCKS[kind]
  if shape[-1] % numbers:
    raise ConversionError(
      f'A tensor of shape {tuple(shape)} cannot be stored as {kind}; expected '
      f'a multiple of {numbers} in a row. The file is damaged.'
    )
  return math.prod(shape) // numbers * size


def dequantise(
  data: UInt8[np.ndarray, 'bytes'], kind: str
) -> Float32[np.ndarray, 'numbers']:
  """The numbers that a tensor's bytes stand for.

  Args:
    data: whole blocks.
    kind: a value of `BY_NUMBER`.

  Returns:
    float32, in the order of the file.
  """
  if kind in _PLAIN:
    return data.view(_PLAIN[kind]).astype(np.float32)
  _, size = _BLOCKS[kind]
  blocks = np.ascontiguousarray(data).reshape(-1, size)
  return _READERS[kind](blocks).reshape(-1)


def _halves(blocks: np.ndarray, start: int) -> Float32[np.ndarray, 'blocks 1']:
  """The float16 at `start` of each block."""
  two = np.ascontiguousarray(blocks[:, start : start + 2])
  return two.view('<f2').astype(np.float32)


def _nibbles(packed: np.ndarray) -> Shaped[np.ndarray, 'blocks numbers']:
  """Low halves of all bytes of a block, then their high halves."""
  return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: np.ndarray, start: int) -> np.ndarray:
  """The 32 bits at `start`, as 0 or 16 each."""
  bits = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder='little')
  return bits << 4


def _q4_0(blocks):
  return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks):
  numbers = _nibbles(blocks[:, 4:]).astype(np.float32)
  return _halves(blocks, 0) * numbers + _halves(blocks, 2)


def _q5_0(blocks):
  numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
  return _halves(blocks, 0) * (numbers.astype(np.float32) - 16)


def _q5_1(blocks):
  numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
  return _halves(blocks, 0) * numbers.astype(np.float32) + _halves(blocks, 2)


def _q8_0(blocks):
  return _halves(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q6_k(blocks):
  # Four low bits of 256 numbers, their two high bits, a scale for every 16,
  # and the scale of the scales. Either half of the block holds 128 numbers in
  # four runs of 32: runs 0 and 1 are the low nibbles, 2 and 3 the high ones.
  count = len(blocks)
  low = blocks[:, :128].reshape(count, 2, 1, 64)
  low = np.concatenate([low & 15, low >> 4], axis=2).reshape(count, 2, 4, 32)
  high = blocks[:, 128:192].reshape(count, 2, 1, 32)
  shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
  numbers = low | ((high >> shifts) & 3) << 4
  numbers = numbers.reshape(count, 16, 16).astype(np.float32) - 32
  scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
  scales = scales * _halves(blocks, 208)
  return numbers * scales[:, :, None]


_READERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'Q4_0': _q4_0,
  'Q4_1': _q4_1,
  'Q5_0': _q5_0,
  'Q5_1': _q5_1,
  'Q8_0': _q8_0,
  'Q6_K': _q6_k,
}
