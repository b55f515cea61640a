"""ONNX files, whole and broken, and the names of their weights."""

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from btr_jax.interop import onnx_files, onnx_t5, wire
from btr_jax.interop.checkpoint import ConversionError


def _tensor(shape, kind, *more):
  message = b''.join(wire.field(1, size) for size in shape)
  return message + wire.field(2, kind) + wire.field(8, 'w') + b''.join(more)


def _model(*messages):
  graph = b''.join(wire.field(5, message) for message in messages)
  return wire.field(7, graph)


def _values(message):
  return onnx_files.read(_model(message), 'some.onnx').tensors['w']


@pytest.mark.parametrize(
  ('message', 'expected'),
  [
    (
      _tensor([2], 1, wire.field(9, np.float32([1, 2]).tobytes())),
      np.float32([1, 2]),
    ),
    (
      _tensor([2], 1, wire.field(4, np.float32([1, 2]).tobytes())),
      np.float32([1, 2]),
    ),
    (
      _tensor([2], 1, wire.field(4, 1.0), wire.field(4, 2.0)),
      np.float32([1, 2]),
    ),
    (_tensor([], 1, wire.field(4, 3.5)), np.float32(3.5)),
    (_tensor([], 3, wire.field(5, -5)), np.int8(-5)),
    (_tensor([], 2, wire.field(5, 200)), np.uint8(200)),
    (_tensor([2], 2, wire.field(5, b'\x07\xc8\x01')), np.uint8([7, 200])),
    (_tensor([2, 1], 3, wire.field(9, b'\xff\x01')), np.int8([[-1], [1]])),
    (_tensor([1], 10, wire.field(9, b'\x00\x3c')), np.float16([1])),
    (_tensor([0], 1), np.zeros(0, np.float32)),
  ],
)
def test_tensors_in_every_form(message, expected):
  found = _values(message)
  assert found.dtype == expected.dtype and found.shape == expected.shape
  np.testing.assert_array_equal(found, expected)
  assert not found.flags.writeable


def test_tensors_of_other_types_are_no_weights():
  data = _model(_tensor([1], 7, wire.field(9, bytes(8))))
  graph = onnx_files.read(data, 'some.onnx')
  assert graph.others == {'w': 7} and not graph.tensors


@pytest.mark.parametrize(
  ('data', 'told'),
  [
    (b'', 'it has 0 graphs'),
    (_model() * 2, 'it has 2 graphs'),
    (wire.field(7, 5), 'the graph is the number 5'),
    (b'PK\x03\x04' + bytes(20), 'wire type|field 0|bytes, but'),
    (_model(_tensor([3], 1, wire.field(9, bytes(8)))), r"'w' has 2 numbers"),
    (_model(_tensor([3], 1, wire.field(9, bytes(7)))), 'no whole numbers'),
    (_model(_tensor([2**62, 4], 3)), "'w' has 0 numbers, but the shape"),
    (_model(_tensor([-1], 3, wire.field(9, b''))), r'the shape \[-1\]'),
    (_model(_tensor([1] * 9, 3, wire.field(9, b'x'))), 'the shape'),
    (_model(_tensor([], 3, wire.field(5, 128))), 'no int8 can be'),
    (_model(_tensor([], 10, wire.field(5, 1))), 'no raw_data'),
    (_model(_tensor([1], 1, wire.field(14, 1))), 'external data'),
    (_model(*[_tensor([0], 1)] * 2), "stores 'w' twice"),
    (wire.field(7, wire.field(1, wire.field(3, b'\xff'))), 'is no text'),
  ],
)
def test_broken_files(data, told):
  with pytest.raises(ConversionError, match=told) as error:
    onnx_files.read(data, 'some.onnx')
  assert str(error.value).startswith('Cannot read some.onnx: ')
  assert 'install or copy it again' in str(error.value)


def test_a_file_that_was_cut_off_or_changed(make_onnx):
  """Anywhere: it is refused, or reads as another graph, and never fails."""
  folder, _ = make_onnx()
  data = (folder / 'data' / 'span' / 'encoder.onnx').read_bytes()

  few = hypothesis.settings(max_examples=50, deadline=None)

  @few
  @hypothesis.given(strategies.integers(0, len(data) - 1))
  def cut(length):
    with pytest.raises(ConversionError):
      onnx_files.read(data[:length], 'some.onnx')

  @few
  @hypothesis.given(
    strategies.integers(0, len(data) - 1), strategies.binary(min_size=1)
  )
  def change(start, other):
    changed = data[:start] + other + data[start + len(other) :]
    try:
      graph = onnx_files.read(changed, 'some.onnx')
      onnx_t5.torch_tensors({'encoder': graph}, 'some.onnx')
    except ConversionError:
      pass

  cut()
  change()


def _graph(tensors, nodes=()):
  return onnx_files.Graph(
    tuple(onnx_files.Node(*node) for node in nodes), tensors, {}
  )


@pytest.mark.parametrize(
  ('tensors', 'nodes', 'told'),
  [
    ({'h.1.attn.weight': np.zeros(2, np.float32)}, (), "no weight of T5's"),
    ({'onnx::MatMul_7': np.zeros(2, np.float32)}, (), "no weight of T5's"),
    (
      {'a.shared.weight': np.zeros(2, np.int8)},
      (),
      'int8 without a scale',
    ),
    (
      {
        'a.shared.weight': np.zeros(2, np.float32),
        'a.embed_tokens.weight': np.zeros(2, np.float32),
      },
      (),
      'two tensors are encoder.embed_tokens.weight',
    ),
    (
      {'m': np.zeros((2, 2), np.float32)},
      [('/lm_head/MatMul', 'MatMul', ('x', 'm'))] * 1
      + [('/head/MatMul', 'MatMul', ('x', 'm'))],
      'm is the matrix of lm_head.weight and of head.weight',
    ),
    (
      {'m_quantized': np.zeros((2, 2), np.int8)},
      [('/lm_head/MatMul', 'MatMulInteger', ('x', 'm_quantized', 'z'))],
      r'zero point \[\]; expected m_zero_point',
    ),
  ],
)
def test_weights_that_have_no_place(tensors, nodes, told):
  with pytest.raises(ConversionError, match=told):
    onnx_t5.torch_tensors({'encoder': _graph(tensors, nodes)}, 'some')


@pytest.mark.parametrize(
  ('scale', 'zero'),
  [
    (None, np.int8(0)),
    (np.float32(1), None),
    (np.float16(1), np.int8(0)),
    (np.float32(1), np.uint8(0)),
    (np.float32([1, 2, 3]), np.int8([0, 0, 0])),
    (np.float32([[1, 2]]), np.int8([0, 0])),
  ],
)
def test_scales_that_do_not_fit(scale, zero):
  name = 'block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  tensors = {f'{name}_quantized': np.zeros((2, 3), np.int8)}
  for end, value in (('_scale', scale), ('_zero_point', zero)):
    if value is not None:
      tensors[name + end] = np.asarray(value)
  with pytest.raises(ConversionError, match='cannot dequantise'):
    onnx_t5.torch_tensors({'encoder': _graph(tensors)}, 'some')


@pytest.mark.parametrize(
  ('ops', 'gated', 'told'),
  [
    ((), True, 'no activation that is known'),
    (('Sigmoid',), True, 'silu'),
    (('Erf',), True, "gelu that is not T5's"),
    (('Tanh', 'Sigmoid'), True, 'Tanh .gelu., Sigmoid|Sigmoid .*Tanh'),
    (('Relu',), True, 'belong to gelu'),
    (('Tanh',), False, 'belong to relu'),
  ],
)
def test_other_activations(ops, gated, told):
  nodes = [(f'/block.0/layer.1/DenseReluDense/act/{op}', op, ()) for op in ops]
  with pytest.raises(ConversionError, match=told):
    onnx_t5.check_activation({'encoder': _graph({}, nodes)}, gated, 'some')


def test_expected_activations():
  for op, gated in (('Tanh', True), ('Relu', False)):
    nodes = [(f'/block.0/layer.1/DenseReluDense/act/{op}', op, ())]
    onnx_t5.check_activation({'encoder': _graph({}, nodes)}, gated, 'some')
