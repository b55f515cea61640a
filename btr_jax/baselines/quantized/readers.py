"""A reader with quantized matrices: Atlas-Q, from any reader at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import os
import pathlib
import re
from typing import Any

import numpy as np

from btr_jax import config as config_lib
from btr_jax.baselines.quantized import calibration, rounding
from btr_jax.models import model as model_lib
from btr_jax.models import quantized, reader_files

METHODS = ('gptq', 'nearest')
# The embedding and, where it has one, the matrix of the logits are kept apart,
# as in GPTQ's own experiments.
EMBEDDING_BITS = (8, 16)
_EDGES = ('token_embedder/embedding', 'decoder/logits_dense/kernel')
_LAYER = re.compile(r'^((?:encoder|decoder)/layers_\d+)/')


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
  """How a reader is quantized.

  Attributes:
    bits: of the matrices of attention and feed-forward layers, 4 or 8.
    method: `gptq`, or `nearest` for each weight by itself.
    group_size: inputs that share a scale, at most.
    embedding_bits: of embedding and logits: 16 (bfloat16) or 8 (nearest).
    sequential: measure the inputs of a layer once those before it are
      quantized, as GPTQ does, in place of all at once: as many times the
      calibration as there are layers.
    damping: of GPTQ.
  """

  bits: int = 4
  method: str = 'gptq'
  group_size: int = 128
  embedding_bits: int = 16
  sequential: bool = False
  damping: float = 0.01

  def __post_init__(self):
    config_lib.check_choice('method', self.method, METHODS)
    rounding.highest_code(self.bits)
    rounding.largest_group(1, self.group_size)
    if self.embedding_bits not in EMBEDDING_BITS:
      raise ValueError(
        f'embedding_bits is {self.embedding_bits}; expected one of '
        f'{EMBEDDING_BITS}.'
      )
    if self.sequential and self.method != 'gptq':
      raise ValueError(
        'sequential has no meaning for method nearest, which rounds each '
        'weight by itself; leave it out.'
      )


@dataclasses.dataclass(frozen=True)
class MatrixReport:
  """What one matrix lost.

  Attributes:
    name: of the parameter.
    shape: inputs and outputs.
    error: what its outputs lost on the calibration questions, as a share of
      their mean square; None without calibration.
    nearest_error: the same by rounding to the nearest with as many bits.
  """

  name: str
  shape: tuple[int, int]
  error: float | None
  nearest_error: float | None


def quantize_params(
  model: model_lib.BtrModel,
  params: Mapping[str, Any],
  config: QuantizationConfig,
  batches: Iterable[Mapping[str, Any]] | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[MatrixReport]]:
  """Quantizes the matrices of a reader.

  Args:
    model: the reader, in the mode that it shall answer in.
    params: its parameters.
    config: bits and method.
    batches: calibration questions with passages and targets, in equal shapes;
      not needed for method nearest, and without them no errors are told.
    progress: called with matrices done and matrices in all.

  Returns:
    Parameters that engine and files take, and a report on each matrix.

  Raises:
    ValueError: method gptq without batches, or parameters quantized before.
  """
  flat = {
    name: np.asarray(value, np.float32)
    if np.issubdtype(np.asarray(value).dtype, np.floating)
    else np.asarray(value)
    for name, value in model_lib.flat_params(params).items()
  }
  if quantized.stored_names(set(flat)):
    raise ValueError(
      'This reader is quantized already; start from the one that it was made '
      'of.'
    )
  if config.method == 'gptq' and batches is None:
    raise ValueError('Method gptq needs calibration questions; give some.')
  names = [
    name for name in flat if name.endswith('/kernel') and _LAYER.match(name)
  ]
  calibrator = (
    None if batches is None else calibration.Calibrator(model, batches)
  )
  result: dict[str, Any] = dict(flat)
  current = dict(flat)  # The same in float32, for layers further up.
  moments: calibration.Moments = {}
  reports: list[MatrixReport] = []
  for block in _blocks(names):
    if calibrator and (config.sequential or not moments):
      moments = calibrator.moments(model_lib.nested_params(current))
    for name in block:
      node, report = _quantize(name, flat[name], moments.get(name), config)
      result[name] = node
      current[name] = np.asarray(quantized.dequantize(node))
      reports.append(report)
      progress(len(reports), len(names))
  if config.embedding_bits == 8:
    for name in {*_EDGES} & {*flat}:
      result[name] = _edge(name, flat[name])
  return model_lib.nested_params(result), reports


def _blocks(names: list[str]) -> list[list[str]]:
  """Names layer by layer, in the order in which the reader runs them."""
  layers: dict[str, list[str]] = {}
  for name in names:
    layers.setdefault(_LAYER.match(name)[1], []).append(name)

  def place(layer):
    stack, _, number = layer.partition('/layers_')
    return stack == 'decoder', int(number)

  return [sorted(layers[layer]) for layer in sorted(layers, key=place)]


def _quantize(
  name: str,
  matrix: np.ndarray,
  moment: np.ndarray | None,
  config: QuantizationConfig,
) -> tuple[Mapping[str, Any], MatrixReport]:
  nearest = rounding.round_nearest(matrix, config.bits, config.group_size)
  chosen = nearest
  if config.method == 'gptq':
    chosen = rounding.gptq(
      matrix, moment, config.bits, config.group_size, config.damping
    )
  errors = [
    None
    if moment is None
    else rounding.output_error(matrix, rounding.restored(*each), moment)
    for each in (chosen, nearest)
  ]
  report = MatrixReport(name, matrix.shape, *errors)
  return rounding.node(*chosen, config.bits), report


def _edge(name: str, matrix: np.ndarray) -> Mapping[str, Any]:
  """Embedding or logits in eight bits, a scale for each token."""
  tokens_first = name.endswith('embedding')
  rows = matrix.T if tokens_first else matrix
  codes, scales = rounding.round_nearest(rows, 8, len(rows))
  if tokens_first:
    codes, scales = np.ascontiguousarray(codes.T), scales.T.copy()
  return rounding.node(codes, scales, 8)


def quantize_reader(
  reader: reader_files.LoadedReader,
  output: str | os.PathLike,
  config: QuantizationConfig,
  batches: Iterable[Mapping[str, Any]] | None = None,
  *,
  provenance: Mapping[str, Any] | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pathlib.Path, list[MatrixReport]]:
  """Writes a quantized reader; `load_reader` reads it like any other.

  Args:
    reader: the reader, loaded in the mode that it shall answer in.
    output: folder to make.
    config: bits and method.
    batches: calibration questions; see `quantize_params`.
    provenance: more to write beside how the reader itself was made.
    progress: called with matrices done and matrices in all.

  Returns:
    The folder, and a report on each matrix.
  """
  params, reports = quantize_params(
    reader.model, reader.params, config, batches, progress
  )
  path = reader_files.save_reader(
    output,
    reader.config,
    reader.limits,
    params,
    reader.vocabulary.path,
    extra_ids=reader.vocabulary.num_extra_ids,
    provenance={
      **reader.provenance,
      'quantization': dataclasses.asdict(config) | dict(provenance or {}),
    },
    dtype='bfloat16',
  )
  return path, reports
