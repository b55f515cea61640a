"""Protocol buffers' wire format: as much as ONNX and SentencePiece need.

A message is a row of fields, each a key (number and wire type) and a value;
what a field means, its reader knows. Written here, since a dependency on onnx
or protobuf would be for this alone.
"""

from __future__ import annotations

from collections.abc import Iterator
import struct

from btr_jax.interop.checkpoint import ConversionError

# protobuf refuses larger messages, so nobody can have written one.
MAX_BYTES = 2**31 - 1
# 64 bits, seven to a byte.
_MAX_VARINT = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

Value = int | memoryview


def _read_varint(data: memoryview, start: int) -> tuple[int, int]:
  """An unsigned number, and where it ends."""
  number = 0
  for i, byte in enumerate(data[start : start + _MAX_VARINT]):
    number |= (byte & 0x7F) << (7 * i)
    if byte < 0x80:
      if number >= 2**64:
        break
      return number, start + i + 1
  raise ConversionError(
    f'byte {start} of a message of {len(data)} begins no number: expected at '
    f'most {_MAX_VARINT} bytes of seven bits, the last below 128'
  )


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
  """The fields of a message, one after another.

  Args:
    data: the message, a view of bytes.

  Yields:
    (number of the field, its value): an unsigned int, or a view of the bytes
    for text, messages, packed numbers and those of fixed width.

  Raises:
    ConversionError: cut off, or not this format.
  """
  if len(data) > MAX_BYTES:
    raise ConversionError(
      f'it has {len(data)} bytes; a protocol buffer has at most {MAX_BYTES}'
    )
  position = 0
  while position < len(data):
    start = position
    key, position = _read_varint(data, position)
    number, kind = key >> 3, key & 7
    if not 0 < number < 2**29:
      raise ConversionError(
        f'byte {start} of a message of {len(data)} begins field {number}; '
        'fields are counted from 1'
      )
    if kind == _VARINT:
      value, position = _read_varint(data, position)
      yield number, value
      continue
    if kind == _BYTES:
      length, position = _read_varint(data, position)
    elif kind in _FIXED:
      length = _FIXED[kind]
    else:
      raise ConversionError(
        f'byte {start} of a message of {len(data)} begins a field of wire '
        f'type {kind}; expected 0, 1, 2 or 5'
      )
    if length > len(data) - position:
      raise ConversionError(
        f'field {number} at byte {start} has {length} bytes, but its message '
        f'of {len(data)} has {len(data) - position} left'
      )
    yield number, data[position : position + length]
    position += length


def as_view(value: Value, what: str) -> memoryview:
  """The bytes of a field.

  Raises:
    ConversionError: it holds a number.
  """
  if isinstance(value, int):
    raise ConversionError(f'{what} is the number {value}; expected bytes')
  return value


def as_text(value: Value, what: str) -> str:
  """The text of a field.

  Raises:
    ConversionError: a number, or no UTF-8.
  """
  try:
    return str(as_view(value, what), 'utf-8')
  except UnicodeDecodeError as error:
    raise ConversionError(f'{what} is no text: {error}') from error


def as_number(value: Value, what: str) -> int:
  """The unsigned number of a field.

  Raises:
    ConversionError: it holds bytes.
  """
  if not isinstance(value, int):
    raise ConversionError(f'{what} holds {len(value)} bytes; expected a number')
  return value


def as_numbers(value: Value) -> list[int]:
  """Unsigned numbers of a repeated field: one, or many packed as bytes.

  Raises:
    ConversionError: the packed ones are cut off.
  """
  if isinstance(value, int):
    return [value]
  numbers, position = [], 0
  while position < len(value):
    number, position = _read_varint(value, position)
    numbers.append(number)
  return numbers


def signed(number: int) -> int:
  """What an unsigned number of 64 bits means as int32 or int64."""
  return number - 2**64 if number >= 2**63 else number


def _varint(number: int) -> bytes:
  number &= 2**64 - 1  # A negative one is written as its two's complement.
  result = bytearray()
  while number >= 0x80:
    result.append(number & 0x7F | 0x80)
    number >>= 7
  result.append(number)
  return bytes(result)


def field(number: int, value: int | float | str | bytes) -> bytes:
  """One field of a message; fields joined are a message.

  Args:
    number: of the field, from 1.
    value: an int (also bool) becomes a varint, a float four bytes, text and
      bytes are preceded by their length.

  Returns:
    The field as bytes.
  """
  if isinstance(value, int):
    return _varint(number << 3 | _VARINT) + _varint(value)
  if isinstance(value, float):
    return _varint(number << 3 | _FIXED32) + struct.pack('<f', value)
  data = value.encode() if isinstance(value, str) else value
  return _varint(number << 3 | _BYTES) + _varint(len(data)) + data
