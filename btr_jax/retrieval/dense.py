"""Nearest passages by embedding, exactly, and the retriever of any index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float32
import numpy as np

from btr_jax.retrieval.binary import Found
from btr_jax.retrieval.encoder import import_extra
from btr_jax.retrieval.interface import Hit

INDEXES = ('exact', 'binary')
# float32 rows converted at once while an index is filled.
_BLOCK = 1 << 16


class ExactIndex:
  """Inner products with every passage (faiss IndexFlatIP), in memory."""

  def __init__(self, embeddings: np.ndarray):
    """Fills the index.

    Args:
      embeddings: float16 or float32 [passages, embed], maybe mapped.
    """
    faiss = import_extra('faiss')
    self._index = faiss.IndexFlatIP(embeddings.shape[1])
    for start in range(0, len(embeddings), _BLOCK):
      block = np.asarray(embeddings[start : start + _BLOCK], np.float32)
      self._index.add(np.ascontiguousarray(block))

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
