"""ONNX files: the tensors they store and the nodes that use them.

Read without the package onnx. Of a model (onnx.proto) these fields are known:

  ModelProto   graph 7
  GraphProto   node 1, initializer 5
  NodeProto    input 1, name 3, op_type 4
  TensorProto  dims 1, data_type 2, float_data 4, int32_data 5, name 8,
               raw_data 9, data_location 14
"""

from __future__ import annotations

import dataclasses
import math

import ml_dtypes
import numpy as np

from btr_jax.interop import wire
from btr_jax.interop.checkpoint import ConversionError

# TensorProto.DataType; graphs also hold shapes and indices in others.
_DTYPES = {
  1: np.dtype(np.float32),
  2: np.dtype(np.uint8),
  3: np.dtype(np.int8),
  10: np.dtype(np.float16),
  16: np.dtype(ml_dtypes.bfloat16),
}
_FLOAT = 1
_IN_INT32_DATA = (2, 3)
_EXTERNAL = 1
_MAX_RANK = 8


@dataclasses.dataclass(frozen=True)
class Node:
  """An operation of a graph.

  Attributes:
    name: in exports of torch the path of its module, '/block.0/.../MatMul'.
    op: its operator.
    inputs: names of tensors.
  """

  name: str
  op: str
  inputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
  """What an ONNX file holds.

  Attributes:
    nodes: in the order of computation.
    tensors: read-only arrays by name, of the dtypes that weights have.
    others: data_type of the tensors that are of another, by name.
  """

  nodes: tuple[Node, ...]
  tensors: dict[str, np.ndarray]
  others: dict[str, int]


def read(data: bytes, source: str) -> Graph:
  """Reads a file.

  Args:
    data: all of it.
    source: its name, for errors.

  Returns:
    The graph; its arrays are views of `data` where they can be.

  Raises:
    ConversionError: not whole, no ONNX model, or weights in another file.
  """
  try:
    return _read_model(memoryview(data))
  except ConversionError as error:
    raise ConversionError(
      f'Cannot read {source}: {error}. Expected an ONNX model that holds its '
      'weights; install or copy it again.'
    ) from error


def _read_model(data: memoryview) -> Graph:
  graphs = [
    wire.as_view(value, 'the graph')
    for number, value in wire.fields(data)
    if number == 7
  ]
  if len(graphs) != 1:
    raise ConversionError(f'it has {len(graphs)} graphs, not one')
  nodes: list[Node] = []
  tensors: dict[str, np.ndarray] = {}
  others: dict[str, int] = {}
  for number, value in wire.fields(graphs[0]):
    if number == 1:
      nodes.append(_read_node(wire.as_view(value, 'a node')))
    elif number == 5:
      name, kind, values = _read_tensor(wire.as_view(value, 'a tensor'))
      if name in tensors or name in others:
        raise ConversionError(f'it stores {name!r} twice')
      if values is None:
        others[name] = kind
      else:
        tensors[name] = values
  return Graph(tuple(nodes), tensors, others)


def _read_node(data: memoryview) -> Node:
  inputs: list[str] = []
  name = op = ''
  for number, value in wire.fields(data):
    if number == 1:
      inputs.append(wire.as_text(value, 'the input of a node'))
    elif number == 3:
      name = wire.as_text(value, 'the name of a node')
    elif number == 4:
      op = wire.as_text(value, 'the operator of a node')
  return Node(name, op, tuple(inputs))


def _read_tensor(data: memoryview) -> tuple[str, int, np.ndarray | None]:
  """(name, data_type, values; None where no weight has that type)."""
  shape: list[int] = []
  kind = 0
  name = ''
  raw: memoryview | None = None
  floats: list[memoryview] = []
  integers: list[int] = []
  for number, value in wire.fields(data):
    if number == 1:
      shape += map(wire.signed, wire.as_numbers(value))
    elif number == 2:
      kind = wire.as_number(value, 'data_type')
    elif number == 4:
      floats.append(wire.as_view(value, 'float_data'))
    elif number == 5:
      integers += map(wire.signed, wire.as_numbers(value))
    elif number == 8:
      name = wire.as_text(value, 'the name of a tensor')
    elif number == 9:
      raw = wire.as_view(value, 'raw_data')
    elif number == 14 and value == _EXTERNAL:
      raise ConversionError(
        'it keeps its weights in another file (external data): merge them '
        'with onnx.save_model(onnx.load(path), path)'
      )
  if kind not in _DTYPES:
    return name, kind, None
  dtype = _DTYPES[kind]
  if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
    raise ConversionError(f'{name!r} has the shape {shape}')
  if raw is not None:
    values = _from_bytes(raw, dtype, name)
  elif kind == _FLOAT:
    values = _from_bytes(b''.join(floats), dtype, name)
  elif kind in _IN_INT32_DATA:
    limits = np.iinfo(dtype)
    if any(not limits.min <= number <= limits.max for number in integers):
      raise ConversionError(f'{name!r} holds numbers that no {dtype} can be')
    values = np.array(integers, dtype)
  else:
    raise ConversionError(f'{name!r} of {dtype} has no raw_data')
  # Python's integers: sizes of a broken file may multiply beyond 64 bits.
  if math.prod(shape) != values.size:
    raise ConversionError(
      f'{name!r} has {values.size} numbers, but the shape {shape}'
    )
  values.flags.writeable = False
  return name, kind, values.reshape(shape)


def _from_bytes(
  data: bytes | memoryview, dtype: np.dtype, name: str
) -> np.ndarray:
  if len(data) % dtype.itemsize:
    raise ConversionError(
      f'{name!r} has {len(data)} bytes, which are no whole numbers of {dtype}'
    )
  return np.frombuffer(data, dtype)
