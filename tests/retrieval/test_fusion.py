"""Reciprocal rank fusion."""

import pytest

from btr_jax.retrieval import fusion
from btr_jax.retrieval.interface import Hit, Retriever


class Fixed:
  """Finds the same for every question; remembers how deep it was asked."""

  def __init__(self, *passages):
    self.passages = passages
    self.asked = []

  def search(self, questions, k):
    self.asked.append(k)
    hits = [Hit(p, 1.0 / (r + 1)) for r, p in enumerate(self.passages)]
    return [hits[:k] for _ in questions]


def test_scores_are_sums_of_inverse_ranks():
  first = [Hit(7, 9.0), Hit(3, 8.0)]
  second = [Hit(3, 0.2), Hit(5, 0.1)]
  found = fusion.reciprocal_rank_fusion([first, second], 10)
  assert [hit.passage for hit in found] == [3, 7, 5]
  assert found[0].score == pytest.approx(1 / 62 + 1 / 61)
  assert found[1].score == pytest.approx(1 / 61)
  assert found[2].score == pytest.approx(1 / 62)


def test_ties_keep_the_order_of_the_corpus():
  found = fusion.reciprocal_rank_fusion([[Hit(9, 1.0)], [Hit(2, 5.0)]], 2)
  assert [hit.passage for hit in found] == [2, 9]


def test_nothing_found_by_one_or_by_all():
  assert fusion.reciprocal_rank_fusion([[], [Hit(1, 1.0)]], 3) == [
    Hit(1, pytest.approx(1 / 61))
  ]
  assert fusion.reciprocal_rank_fusion([[], []], 3) == []


def test_hybrid_asks_deeper_than_it_answers():
  one, two = Fixed(4, 1), Fixed(1, 6)
  hybrid = fusion.HybridRetriever([one, two], depth=50)
  assert isinstance(hybrid, Retriever)
  found = hybrid.search(['a', 'b'], 2)
  assert [[hit.passage for hit in hits] for hits in found] == [[1, 4], [1, 4]]
  assert one.asked == two.asked == [50]
