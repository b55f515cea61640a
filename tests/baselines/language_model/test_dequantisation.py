"""Block formats against their definition, number by number."""

import struct

import ml_dtypes
import numpy as np
import pytest

from btr_jax.baselines.language_model import dequantisation
from btr_jax.interop.checkpoint import ConversionError


def _half(block, start):
  return struct.unpack('<e', block[start : start + 2])[0]


def _by_definition(block, kind):
  """The numbers of one block in Python's own arithmetic."""
  if kind == 'Q8_0':
    return [_half(block, 0) * b for b in struct.unpack('32b', block[2:])]
  if kind == 'Q6_K':
    low, high = block[:128], block[128:192]
    scales = struct.unpack('16b', block[192:208])
    result = []
    for i in range(256):
      half, rest = divmod(i, 128)
      run, column = divmod(rest, 32)
      byte = low[64 * half + 32 * (run % 2) + column]
      nibble = byte >> 4 if run >= 2 else byte & 15
      two = high[32 * half + column] >> (2 * run) & 3
      number = (nibble | two << 4) - 32
      result.append(_half(block, 208) * scales[i // 16] * number)
    return result
  has_fifth, has_minimum = kind[1] == '5', kind[3] == '1'
  start = 4 if has_minimum else 2
  fifth = 0
  if has_fifth:
    fifth = int.from_bytes(block[start : start + 4], 'little')
    start += 4
  result = []
  for i in range(32):
    byte = block[start + i % 16]
    number = byte >> 4 if i >= 16 else byte & 15
    number |= (fifth >> i & 1) << 4
    if has_minimum:
      result.append(_half(block, 0) * number + _half(block, 2))
    else:
      result.append(_half(block, 0) * (number - (16 if has_fifth else 8)))
  return result


@pytest.mark.parametrize(
  'kind, size, halves',
  [
    ('Q4_0', 18, (0,)),
    ('Q4_1', 20, (0, 2)),
    ('Q5_0', 22, (0,)),
    ('Q5_1', 24, (0, 2)),
    ('Q8_0', 34, (0,)),
    ('Q6_K', 210, (208,)),
  ],
)
def test_blocks_by_their_definition(kind, size, halves):
  generator = np.random.default_rng(size)
  blocks = generator.integers(0, 256, (5, size), np.uint8)
  for start in halves:
    scales = generator.normal(size=(5, 1)).astype(np.float16)
    blocks[:, start : start + 2] = scales.view(np.uint8)
  expected = [_by_definition(block.tobytes(), kind) for block in blocks]
  found = dequantisation.dequantise(blocks.reshape(-1), kind)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.ravel(expected), rtol=1e-6, atol=1e-6)
  shape = (5, found.size // 5)
  assert dequantisation.stored_bytes(shape, kind) == blocks.size


@pytest.mark.parametrize(
  'kind, dtype',
  [('F32', np.float32), ('F16', np.float16), ('BF16', ml_dtypes.bfloat16)],
)
def test_plain_numbers(kind, dtype):
  values = np.array([0.5, -3.0, 1e-4], dtype)
  found = dequantisation.dequantise(values.view(np.uint8), kind)
  np.testing.assert_array_equal(found, values.astype(np.float32))
  assert dequantisation.stored_bytes((3,), kind) == values.nbytes


def test_rows_are_whole_blocks():
  with pytest.raises(ConversionError, match='multiple of 32'):
    dequantisation.stored_bytes((4, 33), 'Q4_0')
