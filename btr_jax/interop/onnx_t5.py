"""A T5's weights out of the ONNX graphs of its encoder and its decoder.

torch's exporter keeps the names of embeddings, norms and position biases, and
renames matrices ('onnx::MatMul_1022'). Which matrix one is, the name of the
node tells that multiplies by it: '/enc/block.0/layer.0/SelfAttention/q/MatMul'.
What lies before 'block', and the numbers, differ from export to export.

onnxruntime's dynamic quantisation stores `<name>_quantized`, `<name>_scale`
and `<name>_zero_point`: w = scale * (q - zero_point).
"""

from __future__ import annotations

from collections.abc import Mapping
import re

import numpy as np

from btr_jax.interop import onnx_files
from btr_jax.interop.checkpoint import ConversionError

_MULTIPLICATIONS = ('MatMul', 'MatMulInteger')
_QUANTIZED, _SCALE, _ZERO_POINT = '_quantized', '_scale', '_zero_point'
_IN_STACK = re.compile(
  r'(?:.+\.)?(block\.\d+\..+\.weight|final_layer_norm\.weight)'
)
_EMBEDDING = re.compile(r'(?:.+\.)?(?:shared|embed_tokens)\.weight')
_LOGITS = re.compile(r'(?:.+\.)?lm_head\.weight')
_FEED_FORWARD = '/DenseReluDense/'
# How an export computes the activations that shapes stand for.
_ACTIVATIONS = {'Tanh': 'gelu', 'Relu': 'relu'}
_ALL_ACTIVATIONS = {
  **_ACTIVATIONS,
  'Sigmoid': 'silu or an approximation of gelu',
  'Erf': "gelu that is not T5's",
}


def torch_tensors(
  graphs: Mapping[str, onnx_files.Graph], source: str
) -> dict[str, np.ndarray]:
  """The weights in float32 under transformers' names, in its layout.

  Args:
    graphs: by 'encoder' and 'decoder'.
    source: where they come from, for errors.

  Returns:
    Tensors by name; the embedding once for each graph that has it.

  Raises:
    ConversionError: a tensor that no name tells the place of, or one that
      cannot be dequantised.
  """
  result: dict[str, np.ndarray] = {}
  for stack, graph in graphs.items():
    where = f'{source}, {stack}'
    for name, value in _weights(graph, where).items():
      theirs = _torch_name(name, stack, where)
      if theirs in result:
        raise ConversionError(
          f'{where}: two tensors are {theirs}, one of them {name}. Expected a '
          'graph that holds each weight once; export encoder and decoder '
          'apart.'
        )
      result[theirs] = value
  return result


def check_activation(
  graphs: Mapping[str, onnx_files.Graph], gated: bool, source: str
) -> None:
  """Holds the activation, which shapes do not tell, against the graphs.

  Args:
    graphs: by 'encoder' and 'decoder'.
    gated: whether the feed-forward layer has two input matrices: then gelu
      in its tanh form is expected (T5 1.1), else relu (the first T5).
    source: where they come from, for errors.

  Raises:
    ConversionError: a graph computes another.
  """
  expected = 'gelu' if gated else 'relu'
  for stack, graph in graphs.items():
    found = {
      node.op
      for node in graph.nodes
      if _FEED_FORWARD in node.name and node.op in _ALL_ACTIVATIONS
    }
    if {_ACTIVATIONS.get(op) for op in found} != {expected}:
      told = ', '.join(f'{op} ({_ALL_ACTIVATIONS[op]})' for op in sorted(found))
      raise ConversionError(
        f'{source}, {stack}: the feed-forward layers compute '
        f'{told or "no activation that is known"}; their matrices belong to '
        f'{expected}. Give --config with the config.json of the model.'
      )


def _torch_name(name: str, stack: str, source: str) -> str:
  if match := _IN_STACK.fullmatch(name):
    return f'{stack}.{match[1]}'
  if _EMBEDDING.fullmatch(name):
    return f'{stack}.embed_tokens.weight'
  if _LOGITS.fullmatch(name):
    return 'lm_head.weight'
  raise ConversionError(
    f"{source}: {name} is no weight of T5's. Expected a T5 exported by torch "
    'with the names of its modules (block.0.layer.0.SelfAttention.q, ...).'
  )


def _weights(graph: onnx_files.Graph, source: str) -> dict[str, np.ndarray]:
  """Float32 by the names of torch's modules, whatever stands before."""
  tensors = graph.tensors
  # Of matrices: the name in the graph -> the module's.
  modules: dict[str, str] = {}
  for node in graph.nodes:
    if node.op not in _MULTIPLICATIONS or len(node.inputs) < 2:
      continue
    matrix = node.inputs[1]
    if matrix not in tensors:
      continue  # Attention multiplies two results.
    module = node.name.rpartition('/')[0].strip('/').replace('/', '.')
    zero_point = matrix.removesuffix(_QUANTIZED) + _ZERO_POINT
    if node.op == 'MatMulInteger' and node.inputs[3:] != (zero_point,):
      raise ConversionError(
        f'{source}: {node.name} multiplies by {matrix} with the zero point '
        f'{list(node.inputs[3:])}; expected {zero_point}, as onnxruntime names '
        'it.'
      )
    if modules.setdefault(matrix, f'{module}.weight') != f'{module}.weight':
      raise ConversionError(
        f'{source}: {matrix} is the matrix of {modules[matrix]} and of '
        f'{module}.weight. Export the model without merging equal tensors.'
      )
  result = {}
  parameters = {
    name.removesuffix(_QUANTIZED) + suffix
    for name in tensors
    if name.endswith(_QUANTIZED)
    for suffix in (_SCALE, _ZERO_POINT)
  }
  for name in tensors:
    if name in parameters:
      continue
    value = _float32(tensors, name, name in modules, source)
    if name in modules:
      # ONNX multiplies from the right: [inputs, outputs].
      result[modules[name]] = value.T
    else:
      result[name.removesuffix(_QUANTIZED)] = value
  return result


def _float32(
  tensors: Mapping[str, np.ndarray], name: str, matrix: bool, source: str
) -> np.ndarray:
  value = tensors[name]
  if not name.endswith(_QUANTIZED):
    if value.dtype.kind in 'iu':
      raise ConversionError(
        f'{source}: {name} is {value.dtype} without a scale. Expected '
        f'`*{_QUANTIZED}` with `*{_SCALE}` and `*{_ZERO_POINT}`, as '
        'onnxruntime.quantization.quantize_dynamic writes them.'
      )
    return value.astype(np.float32)
  stem = name.removesuffix(_QUANTIZED)
  scale, zero = (tensors.get(stem + end) for end in (_SCALE, _ZERO_POINT))
  # One of each, or one per column of a matrix.
  shapes = [(), (1,)] + ([value.shape[-1:]] if matrix else [])
  if (
    scale is None
    or zero is None
    or value.dtype.kind not in 'iu'
    or (scale.dtype, zero.dtype) != (np.float32, value.dtype)
    or scale.shape not in shapes
    or zero.shape not in shapes
  ):
    told = ', '.join(
      f'{end[1:]} ' + ('missing' if t is None else f'{t.dtype}{list(t.shape)}')
      for end, t in (
        (_QUANTIZED, value),
        (_SCALE, scale),
        (_ZERO_POINT, zero),
      )
    )
    raise ConversionError(
      f'{source}: cannot dequantise {stem}: {told}. Expected int8 or uint8 '
      'with a float32 scale and a zero point of its own dtype, one for the '
      'tensor or for each column of a matrix.'
    )
  return (value.astype(np.float32) - zero.astype(np.float32)) * scale
