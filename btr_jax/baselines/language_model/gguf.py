"""GGUF files (llama.cpp's format, versions 2 and 3): metadata and tensors."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import struct
from typing import Any, BinaryIO

from jaxtyping import Float32
import numpy as np

from btr_jax.baselines.language_model import dequantisation
from btr_jax.interop.checkpoint import ConversionError

_MAGIC = b'GGUF'
_VERSIONS = (2, 3)
# By their number in the file.
_SCALARS = {
  0: '<B',
  1: '<b',
  2: '<H',
  3: '<h',
  4: '<I',
  5: '<i',
  6: '<f',
  7: '<?',
  10: '<Q',
  11: '<q',
  12: '<d',
}
_STRING = 8
_ARRAY = 9
_ALIGNMENT = 'general.alignment'


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a mapped file.

  Attributes:
    shape: as Hugging Face writes it, [outputs, inputs].
    kind: name of its storage, such as 'Q4_1'.
    data: its bytes.
  """

  shape: tuple[int, ...]
  kind: str
  data: np.ndarray

  def read(self) -> Float32[np.ndarray, '...']:
    """The numbers in float32."""
    values = dequantisation.dequantise(self.data, self.kind)
    return values.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class File:
  """What a GGUF file holds.

  Attributes:
    path: of the file.
    metadata: by key.
    tensors: by name.
  """

  path: pathlib.Path
  metadata: dict[str, Any]
  tensors: dict[str, Tensor]


class _Header:
  """Reads the values before the tensors."""

  def __init__(self, file: BinaryIO):
    self._file = file

  def bytes(self, count: int) -> bytes:
    data = self._file.read(count)
    if len(data) != count:
      raise ConversionError('the file ends within its header')
    return data

  def number(self, code: str) -> Any:
    return struct.unpack(code, self.bytes(struct.calcsize(code)))[0]

  def text(self) -> str:
    return self.bytes(self.number('<Q')).decode()

  def value(self, kind: int) -> Any:
    if kind == _STRING:
      return self.text()
    if kind == _ARRAY:
      inner = self.number('<I')
      count = self.number('<Q')
      if inner not in _SCALARS:
        return [self.value(inner) for _ in range(count)]
      code = _SCALARS[inner]
      data = self.bytes(count * struct.calcsize(code))
      dtype = '<?' if code == '<?' else np.dtype(code.replace('b', 'i1'))
      return np.frombuffer(data, dtype).tolist()
    if kind not in _SCALARS:
      raise ConversionError(f'there is no type of metadata {kind}')
    return self.number(_SCALARS[kind])


def read(path: str | os.PathLike) -> File:
  """Reads a file's metadata and maps its tensors.

  Args:
    path: a .gguf file.

  Returns:
    Its contents; tensors are dequantised when they are read.

  Raises:
    ConversionError: no such file, another format, or not whole.
  """
  path = pathlib.Path(path)
  try:
    with open(path, 'rb') as file:
      metadata, entries, data_start = _read_header(file)
    mapped = np.memmap(path, np.uint8, 'r')
  except (OSError, ValueError, struct.error, OverflowError) as error:
    raise ConversionError(
      f'Cannot read {path}: {error}. Expected a GGUF file of version '
      f'{" or ".join(map(str, _VERSIONS))}; copy or download it again.'
    ) from error
  tensors = {}
  for name, (shape, kind, offset) in entries.items():
    if kind not in dequantisation.BY_NUMBER:
      raise ConversionError(
        f'{path}: {name} is stored as type {kind} of ggml; expected one of '
        f'{", ".join(dequantisation.BY_NUMBER.values())}. Convert it with '
        "llama.cpp's llama-quantize."
      )
    kind = dequantisation.BY_NUMBER[kind]
    size = dequantisation.stored_bytes(shape, kind)
    start = data_start + offset
    if start + size > len(mapped):
      raise ConversionError(
        f'{path} has {len(mapped)} bytes, and {name} would end at byte '
        f'{start + size}; copy or download it again.'
      )
    tensors[name] = Tensor(shape, kind, mapped[start : start + size])
  return File(path, metadata, tensors)


def _read_header(file):
  header = _Header(file)
  magic = header.bytes(4)
  if magic != _MAGIC:
    raise ConversionError(f'it begins with {magic!r}, not {_MAGIC!r}')
  version = header.number('<I')
  if version not in _VERSIONS:
    raise ConversionError(f'it has version {version}')
  num_tensors = header.number('<Q')
  num_values = header.number('<Q')
  metadata = {}
  for _ in range(num_values):
    key = header.text()
    metadata[key] = header.value(header.number('<I'))
  entries = {}
  for _ in range(num_tensors):
    name = header.text()
    dimensions = [header.number('<Q') for _ in range(header.number('<I'))]
    # The fastest dimension stands first.
    shape = tuple(reversed(dimensions))
    entries[name] = (shape, header.number('<I'), header.number('<Q'))
  alignment = metadata.get(_ALIGNMENT, 32)
  data_start = math.ceil(file.tell() / alignment) * alignment
  return metadata, entries, data_start
