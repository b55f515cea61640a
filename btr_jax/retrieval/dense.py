"""Nearest passages by embedding: exact, or by one bit per dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float32, Int64
import numpy as np

from btr_jax.retrieval import embeddings as embeddings_lib
from btr_jax.retrieval.encoder import import_extra
from btr_jax.retrieval.interface import Hit

INDEXES = ('exact', 'binary')
# Candidates by bits for each hit that is wanted, then ranked by the float
# embeddings; 10 keeps nearly all of the exact search's hits.
CANDIDATES = 10
# float32 rows converted at once while an index is filled.
_BLOCK = 1 << 16

Found = tuple[
  Float32[np.ndarray, 'questions hits'], Int64[np.ndarray, 'questions hits']
]


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


class BinaryIndex:
  """Hamming distances of signs (faiss IndexBinaryFlat), then a second look.

  In memory are the bits alone; the float embeddings of the candidates are read
  from where they are mapped.
  """

  def __init__(
    self,
    codes: np.ndarray,
    embeddings: np.ndarray,
    candidates: int = CANDIDATES,
  ):
    """Fills the index.

    Args:
      codes: uint8 [passages, embed / 8], from `sign_codes`.
      embeddings: float16 or float32 [passages, embed], maybe mapped.
      candidates: passages looked at again, for each hit that is wanted.
    """
    faiss = import_extra('faiss')
    self._index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    self._index.add(np.ascontiguousarray(codes))
    self._embeddings = embeddings
    self._candidates = candidates

  def search(
    self, questions: Float32[np.ndarray, 'questions embed'], k: int
  ) -> Found:
    """Scores and numbers of the best passages among the candidates."""
    depth = min(k * self._candidates, self._index.ntotal)
    _, near = self._index.search(embeddings_lib.sign_codes(questions), depth)
    near = np.sort(near, axis=1)  # in the order of the file, and of ties
    rows = np.asarray(self._embeddings[near], np.float32)
    scores = np.matmul(rows, questions[:, :, None])[:, :, 0]
    order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
    return (
      np.take_along_axis(scores, order, axis=1),
      np.take_along_axis(near, order, axis=1),
    )


class DenseRetriever:
  """Embeds questions and asks an index."""

  def __init__(self, embed: Callable[[Sequence[str]], np.ndarray], index: Any):
    """Keeps both.

    Args:
      embed: questions -> float32 [questions, embed].
      index: an `ExactIndex` or a `BinaryIndex`.
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
