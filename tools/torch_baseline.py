"""Hugging Face's T5 as a row of `btr benchmark`."""

from __future__ import annotations

import numpy as np

from btr_jax.evaluation import benchmark_inputs
from btr_jax.interop import torch_reader

NAME = 'torch joint'


class TorchRunner:
  """transformers' T5 on the weights of the corpus's reader, in float32."""

  compile_seconds = 0.0

  def __init__(
    self,
    corpus: benchmark_inputs.Corpus,
    workload: benchmark_inputs.Workload,
    threads: int | None = None,
  ):
    """Copies the weights to torch. Errors as `TorchReader`."""
    self._corpus = corpus
    self._workload = workload
    self._reader = torch_reader.TorchReader(
      corpus.reader.config, corpus.reader.params, threads
    )

  def look_up(self, questions, numbers):
    length = self._workload.padded_length
    return questions, benchmark_inputs.padded(
      self._corpus.tokens, numbers, length
    )

  def read(self, batch) -> np.ndarray:
    return self._reader.answer(*batch, self._workload.answer_length)
