"""A T5 as torch exports it and onnxruntime quantises it, in miniature."""

import base64
import dataclasses
import importlib.util
import json
import pathlib
import struct

import numpy as np
import pytest

from btr_jax.interop import names, onnx_packages, wire


def _onnx_tensor(name, value):
  """TensorProto as onnxruntime writes it: a number by itself is not raw."""
  kind = {'float32': 1, 'uint8': 2, 'int8': 3, 'float16': 10}[value.dtype.name]
  message = b''.join(wire.field(1, size) for size in value.shape)
  message += wire.field(2, kind)
  if value.ndim or kind == 10:
    message += wire.field(9, value.tobytes())
  elif kind == 1:
    message += wire.field(4, value.tobytes())
  else:
    message += wire.field(5, int(value))
  return message + wire.field(8, name) + wire.field(14, 0)


def _onnx_model(tensors, nodes):
  """ModelProto: tensors by name, and (name, operator, inputs) of nodes."""
  graph = b''
  for name, op, inputs in nodes:
    node = b''.join(wire.field(1, text) for text in inputs)
    node += wire.field(2, f'{name}_output_0')
    graph += wire.field(1, node + wire.field(3, name) + wire.field(4, op))
  graph += wire.field(2, 'main_graph')
  for name, value in tensors.items():
    graph += wire.field(5, _onnx_tensor(name, value))
  return wire.field(1, 8) + wire.field(2, 'a test') + wire.field(7, graph)


def _quantise(value, signed, per_column):
  """(codes, scale, zero point): as onnxruntime does, nearly."""
  axis = 0 if per_column else None
  if signed:
    scale = np.abs(value).max(axis) / 127
    zero = np.zeros_like(scale, np.int8)
  else:
    scale = (value.max(axis) - value.min(axis)) / 255
    zero = np.rint(-value.min(axis) / scale).astype(np.uint8)
  scale = np.asarray(scale, np.float32)
  low, high = (-127, 127) if signed else (0, 255)
  codes = np.clip(np.rint(value / scale) + zero.astype(int), low, high)
  return codes.astype(zero.dtype), scale, zero


def _export(weights, stack, root, kind):
  """Tensors and nodes as torch exports one side of a T5, and its weights.

  `kind` is 'tensor' or 'column' (how scales are shared), or a float dtype.
  """
  tensors, nodes, truth = {}, [], {}
  own = {
    name: value
    for name, value in weights.items()
    if name.startswith(f'{stack}.')
    or name == 'shared.weight'
    or (name == 'lm_head.weight' and stack == 'decoder')
  }
  for number, (name, value) in enumerate(own.items()):
    module = name.removesuffix('.weight').removeprefix(f'{stack}.')
    tail = {'shared': f'{root}.embed_tokens', 'lm_head': 'm.lm_head'}
    module = tail.get(module, f'{root}.{module}')
    matrix = not module.endswith(('_norm', '_bias', 'embed_tokens'))
    stored = f'onnx::MatMul_{71 + 3 * number}' if matrix else f'{module}.weight'
    value = value.T if matrix else value
    if kind not in ('tensor', 'column'):
      value = tensors[stored] = value.astype(kind)
      inputs = ('x', stored)
    elif value.ndim == 2:
      codes, scale, zero = _quantise(value, matrix, matrix and kind == 'column')
      tensors[f'{stored}_scale'] = scale
      tensors[f'{stored}_zero_point'] = zero
      tensors[f'{stored}_quantized'] = codes
      value = scale * (codes.astype(np.float32) - zero.astype(np.float32))
      inputs = ('x_q', f'{stored}_quantized', 'x_z', f'{stored}_zero_point')
    else:
      tensors[stored] = value
    path = '/' + module.replace('.', '/').replace('block/', 'block.')
    path = path.replace('layer/', 'layer.')
    if matrix:
      op = 'MatMul' if len(inputs) == 2 else 'MatMulInteger'
      nodes.append((f'{path}/MatMul', op, inputs))
    truth[name] = np.asarray(value.T if matrix else value, np.float32)
  layer = f'/{root}/block.0/layer.0'
  nodes.append((f'{layer}/SelfAttention/MatMul', 'MatMul', ('q', 'k')))
  nodes.append((f'{layer}/DenseReluDense/act/Tanh', 'Tanh', ('x',)))
  return tensors, nodes, truth


@pytest.fixture(scope='session')
def tiny_tokenizer_json(tiny_vocabulary_file):
  """The tiny vocabulary with 100 sentinels as a tokenizer.json's contents."""
  pieces, table = [], b''
  data = memoryview(tiny_vocabulary_file.read_bytes())
  for number, message in wire.fields(data):
    if number == 1:
      values = dict(wire.fields(message))
      score = struct.unpack('<f', values[2])[0]
      pieces.append([str(values[1], 'utf-8'), score])
    elif number == 3:
      table = bytes(dict(wire.fields(message))[2])
  sentinels = [[f'<extra_id_{99 - i}>', 0.0] for i in range(100)]
  special = [0, 1, 2, *range(len(pieces), len(pieces) + 100)]
  pieces += sentinels
  metaspace = {
    'type': 'Metaspace',
    'replacement': '▁',
    'prepend_scheme': 'always',
  }
  return {
    'added_tokens': [
      {'id': i, 'content': pieces[i][0], 'special': True} for i in special
    ],
    'normalizer': {
      'type': 'Sequence',
      'normalizers': [
        {
          'type': 'Precompiled',
          'precompiled_charsmap': base64.b64encode(table).decode(),
        },
        {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': ' '},
      ],
    },
    'pre_tokenizer': metaspace,
    'model': {'type': 'Unigram', 'unk_id': 2, 'vocab': pieces},
  }


@pytest.fixture
def make_onnx(tmp_path, tiny_config, tiny_tokenizer_json, random_tensors):
  """make_onnx(kind, change, **overrides) -> (folder, weights by torch's names).

  The folder is a package's: site/titles with data/span, and its metadata.
  `change(stack, tensors, nodes)` spoils what is written.
  """

  def make(kind='tensor', change=None, package='titles', **overrides):
    config = dataclasses.replace(tiny_config, **overrides)
    weights = names.to_torch(random_tensors(config))
    folder = tmp_path / 'site' / package
    span = folder / 'data' / 'span'
    span.mkdir(parents=True)
    (folder / '__init__.py').write_text('raise ImportError("never imported")')
    metadata = tmp_path / 'site' / f'{package}-1.2.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text(
      'Metadata-Version: 2.4\nName: titles\nVersion: 1.2\n'
      'License-Expression: MIT\n\nText.\n'
    )
    result = {}
    for stack, root in (('encoder', 'enc'), ('decoder', 'm.decoder')):
      tensors, nodes, truth = _export(weights, stack, root, kind)
      result.update(truth)
      if change is not None:
        change(stack, tensors, nodes)
      (span / f'{stack}.onnx').write_bytes(_onnx_model(tensors, nodes))
    (span / 'tokenizer.json').write_text(json.dumps(tiny_tokenizer_json))
    return folder, result

  return make


@pytest.fixture(scope='session')
def title_model():
  """The files of traceforge-title-model; skips where it is not installed."""
  found = importlib.util.find_spec('traceforge_title_model')
  if found is None:
    pytest.skip('traceforge-title-model is not installed (pip, --no-deps)')
  folder = pathlib.Path(found.origin).parent / 'data' / 'span'
  assert onnx_packages.looks_like_one(folder)
  return folder
