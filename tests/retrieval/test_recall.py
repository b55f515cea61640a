"""Judging retrieved passages."""

import pytest

from btr_jax.data import records
from btr_jax.retrieval import recall


@pytest.mark.parametrize(
  ('answers', 'text', 'expected'),
  [
    (['2,414 km'], 'Coastline: 2414 km.', True),
    (['The Hague'], 'in hague, 1907', True),
    (['14 km'], 'Coastline: 2,414 km', False),
    (['Niger'], 'Nigeria is large', False),
    (['Lima', 'Quito'], 'Capital: Quito', True),
    ([], 'anything', False),
    (['', 'the'], 'anything', False),
  ],
)
def test_has_answer_matches_whole_words(answers, text, expected):
  assert recall.has_answer(answers, text) is expected


def test_judge_prefers_the_stored_judgement():
  record = records.Record(
    'q',
    'Is it?',
    ('yes',),
    (
      records.Context('0', 'T', 'yes', has_answer=False),
      records.Context('1', 'T', 'no', has_answer=True),
      records.Context('2', 'T', 'yes'),
      records.Context('3', 'yes', 'no'),
    ),
  )
  assert recall.judge(record) == [False, True, True, True]


def test_recall_at_k():
  judgements = [[True, False], [False, False, True], [], [False, True]]
  assert recall.recall_at_k(judgements, [1, 2, 3]) == {1: 0.25, 2: 0.5, 3: 0.75}


def test_recall_of_nothing():
  with pytest.raises(ValueError, match='found none'):
    recall.recall_at_k([], [1])


def test_cutoff_must_be_positive():
  with pytest.raises(ValueError, match=r'found \[0\]'):
    recall.recall_at_k([[True]], [0])
