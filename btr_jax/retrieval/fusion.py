"""Several rankings into one, by reciprocal ranks."""

from __future__ import annotations

from collections.abc import Sequence

from btr_jax.retrieval.interface import Hit, Retriever

# Cormack, Clarke and Büttcher (SIGIR 2009): ranks far down hardly differ.
RANK_OFFSET = 60
MIN_DEPTH = 100


def reciprocal_rank_fusion(
  rankings: Sequence[Sequence[Hit]], k: int, offset: int = RANK_OFFSET
) -> list[Hit]:
  """Joins rankings of one question; their scores need not compare.

  Args:
    rankings: hits, best first.
    k: at most so many hits are returned.
    offset: added to every rank before it is inverted.

  Returns:
    Hits with the sum over rankings of 1 / (offset + rank), best first; ties
    go to the passage that comes first in the corpus.
  """
  scores: dict[int, float] = {}
  for ranking in rankings:
    for rank, hit in enumerate(ranking, start=1):
      scores[hit.passage] = scores.get(hit.passage, 0.0) + 1 / (offset + rank)
  order = sorted(scores, key=lambda passage: (-scores[passage], passage))
  return [Hit(passage, scores[passage]) for passage in order[:k]]


class HybridRetriever:
  """Asks several retrievers of one corpus and fuses what they find."""

  def __init__(self, retrievers: Sequence[Retriever], depth: int = MIN_DEPTH):
    """Keeps the retrievers.

    Args:
      retrievers: they must number the same passages.
      depth: hits asked of each, at least.
    """
    self._retrievers = tuple(retrievers)
    self._depth = depth

  def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
    """Returns, for each question, at most `k` hits, best first."""
    depth = max(k, self._depth)
    found = [one.search(questions, depth) for one in self._retrievers]
    return [
      reciprocal_rank_fusion(rankings, k)
      for rankings in zip(*found, strict=True)
    ]
