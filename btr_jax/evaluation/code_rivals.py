"""Codes that are no codecs here, to compare the codecs with.

What the paper's bits could say at best (levels per dimension, or a linear map
of the bits as its recovery loss trains it), numbers in eight bits, a table
without any bits, and product quantization (faiss) at the codecs' bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from btr_jax.evaluation import code_errors
from btr_jax.models import codec_fit

_PQ_SAMPLE = 100_000
_SCALE_BYTES = 1


def _batchwise(decode_unit):
  """From a map of x / rms(x) and ids to one of states, with their rms."""

  def decode(states, tokens):
    rms = np.sqrt(np.mean(np.square(states), -1, keepdims=True) + 1e-6)
    unit = states / rms
    rows = unit.reshape(-1, unit.shape[-1])
    found = decode_unit(rows, tokens.reshape(-1))
    return found.reshape(states.shape) * rms

  return decode


def _signs(unit, norm_scale):
  # The paper's bits: of the norm's output.
  return np.where(unit * norm_scale > 0, 1.0, -1.0)


def _level_per_dimension(fit_on, norm_scale):
  total, count = 0.0, 0
  for unit, _ in fit_on.real():
    total = total + (unit * _signs(unit, norm_scale)).sum(0)
    count += len(unit)
  level = total / count
  return lambda unit, ids: _signs(unit, norm_scale) * level


def _linear_map(fit_on, norm_scale):
  gram, cross = 0.0, 0.0

  def features(unit):
    bits = _signs(unit, norm_scale)
    return np.concatenate([bits, np.ones((len(bits), 1))], axis=1)

  for unit, _ in fit_on.real():
    of_bits = features(unit)
    gram = gram + of_bits.T @ of_bits
    cross = cross + of_bits.T @ unit
  matrix = np.linalg.solve(gram + 1e-3 * np.eye(len(gram)), cross)
  return lambda unit, ids: features(unit) @ matrix


def _eight_bits(unit, ids):
  del ids
  largest = np.abs(unit).max(-1, keepdims=True) / 127
  return np.round(unit / largest) * largest


def _table(reader, fit_on):
  fitted = codec_fit.fit_residual_codec(
    fit_on.of,
    fit_on.batches,
    reader.config,
    reader.params['token_embedder']['embedding'],
  )
  table = fitted['table'].astype(np.float64) * fitted['deviation']
  return table, fitted['deviation'].astype(np.float64)


def _product_quantizer(fit_on, table, deviation, num_bytes):
  import faiss

  def whitened(unit, ids):
    return ((unit - table[ids]) / deviation).astype(np.float32)

  sample, held = [], 0
  for unit, ids in fit_on.real():
    sample.append(whitened(unit, ids))
    held += len(unit)
    if held >= _PQ_SAMPLE:
      break
  quantizer = faiss.ProductQuantizer(fit_on.embed_dim, num_bytes, 8)
  quantizer.train(np.concatenate(sample)[:_PQ_SAMPLE])

  def decode(unit, ids):
    codes = quantizer.compute_codes(whitened(unit, ids))
    return quantizer.decode(codes) * deviation + table[ids]

  return decode


def measure(
  reader: Any,
  fit_on: code_errors.StoredStates,
  test_on: code_errors.StoredStates,
  norm_scale: np.ndarray,
  progress: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:
  """Rows as those of `code_errors.measure`.

  Bytes per token hold one byte for the scale, as the codecs' do.
  """
  dims = fit_on.embed_dim
  table, deviation = _table(reader, fit_on)
  nothing = np.zeros_like(table)
  kinds = [
    (
      "the paper's bits, a level per dimension",
      dims // 8,
      lambda: _level_per_dimension(fit_on, norm_scale),
    ),
    (
      "the paper's bits, a linear map (recovery head)",
      dims // 8,
      lambda: _linear_map(fit_on, norm_scale),
    ),
    ('eight bits a dimension', dims, lambda: _eight_bits),
    ('table alone', 0, lambda: lambda unit, ids: table[ids]),
  ]
  for num_bytes in (dims // 8, dims // 32, dims // 64):
    kinds += [
      (
        f'product quantization, {num_bytes} bytes',
        num_bytes,
        lambda n=num_bytes: _product_quantizer(fit_on, nothing, deviation, n),
      ),
      (
        f'table and product quantization, {num_bytes} bytes',
        num_bytes,
        lambda n=num_bytes: _product_quantizer(fit_on, table, deviation, n),
      ),
    ]
  rows = []
  for name, num_bytes, make in kinds:
    progress(name)
    decode = _batchwise(make())
    rows.append(
      {
        'code': name,
        'codec': None,
        'bytes_per_token': num_bytes + _SCALE_BYTES,
        **code_errors.errors(test_on, norm_scale, decode),
      }
    )
  return rows
