"""Nearest passages by embedding, exactly, and the retriever of any index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float32
import numpy as np

from btr_jax.retrieval import binary
from btr_jax.retrieval.binary import Found
from btr_jax.retrieval.encoder import import_extra
from btr_jax.retrieval.interface import Hit

INDEXES = ('exact', 'binary')


class ExactIndex:
  """Inner products with every passage (faiss IndexFlatIP), in memory."""

  def __init__(self, embeddings: np.ndarray):
    """Fills the index.

    Args:
      embeddings: float16 or float32 [passages, embed], maybe mapped.
    """
    faiss = import_extra('faiss')
    # faiss points into it: added to an index, it would be copied.
    self._embeddings = np.ascontiguousarray(embeddings, np.float32)
    self._index = faiss.IndexFlatIP(embeddings.shape[1])
    binary.point(faiss, self._index, self._embeddings)

  def search(
    self, questions: Float32[np.ndarray, 'questions embed'], k: int
  ) -> Found:
    """Scores and numbers of the k best passages, best first."""
    return self._index.search(questions, min(k, self._index.ntotal))


class DenseRetriever:
  """Embeds questions and asks an index."""

  def __init__(self, embed: Callable[[Sequence[str]], np.ndarray], index: Any):
    """Keeps both.

    Args:
      embed: questions -> float32 [questions, embed].
      index: an `ExactIndex` or a `binary.BinaryIndex`.
    """
    self._embed = embed
    self._index = index

  def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
    """Returns, for each question, at most `k` hits, best first.

    Raises:
      ValueError: k is not positive.
    """
    if k < 1:
      raise ValueError(f'k must be at least 1, found {k}.')
    if not questions:
      return []
    scores, numbers = self._index.search(self._embed(questions), k)
    return [
      [Hit(*hit) for hit in zip(*row, strict=True)]
      for row in zip(numbers.tolist(), scores.tolist(), strict=True)
    ]
