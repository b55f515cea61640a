"""The wire format of protocol buffers, and what is refused of it."""

import hypothesis
from hypothesis import strategies
import pytest

from btr_jax.interop import wire
from btr_jax.interop.checkpoint import ConversionError


def _fields(data):
  return list(wire.fields(memoryview(data)))


@pytest.mark.parametrize(
  ('number', 'value', 'expected'),
  [
    (1, 150, b'\x08\x96\x01'),  # protobuf's own examples
    (2, 'testing', b'\x12\x07testing'),
    (3, b'\x08\x96\x01', b'\x1a\x03\x08\x96\x01'),
    (1, -2, b'\x08\xfe' + b'\xff' * 8 + b'\x01'),
    (1, True, b'\x08\x01'),
    (2, 1.0, b'\x15\x00\x00\x80\x3f'),
    (40, 2, b'\xc0\x02\x02'),
  ],
)
def test_a_field(number, value, expected):
  assert wire.field(number, value) == expected
  ((found, read),) = _fields(expected)
  assert found == number
  if isinstance(value, int):
    assert wire.signed(read) == value


@hypothesis.given(strategies.integers(-(2**63), 2**63 - 1))
def test_numbers_come_back(number):
  ((_, value),) = _fields(wire.field(1, number))
  assert wire.signed(value) == number


def test_packed_numbers_and_one():
  packed = wire.field(1, b'\x03\x8e\x02\x9e\xa7\x05')
  assert wire.as_numbers(_fields(packed)[0][1]) == [3, 270, 86942]
  assert wire.as_numbers(270) == [270]


@pytest.mark.parametrize(
  ('data', 'told'),
  [
    (b'\x08', 'begins no number'),
    (b'\x08' + b'\x80' * 10 + b'\x01', 'begins no number'),
    (b'\x08' + b'\xff' * 9 + b'\x02', 'begins no number'),
    (b'\x12\x07test', 'has 7 bytes, but its message of 6 has 4 left'),
    (b'\x12' + b'\xff' * 9 + b'\x01', 'bytes, but its message'),
    (b'\x15\x00\x00', 'has 4 bytes'),
    (b'\x11\x00\x00', 'has 8 bytes'),
    (b'\x00\x01', 'field 0'),
    (b'\x0b', 'wire type 3'),
    (b'\x0f\x00', 'wire type 7'),
  ],
)
def test_broken_messages(data, told):
  with pytest.raises(ConversionError, match=told):
    _fields(data)


@hypothesis.given(strategies.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
  try:
    found = _fields(data)
  except ConversionError:
    return
  assert all(number > 0 for number, _ in found)


def test_kinds_of_values():
  with pytest.raises(ConversionError, match='the name is the number 5'):
    wire.as_view(5, 'the name')
  with pytest.raises(ConversionError, match='the name is no text'):
    wire.as_text(memoryview(b'\xff'), 'the name')
  with pytest.raises(ConversionError, match='data_type holds 2 bytes'):
    wire.as_number(memoryview(b'ab'), 'data_type')
  with pytest.raises(ConversionError, match='begins no number'):
    wire.as_numbers(memoryview(b'\x01\x80'))
