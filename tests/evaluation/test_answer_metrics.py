"""Exact match and F1 against values worked out by hand."""

from __future__ import annotations

import pytest

from btr_jax.evaluation import answer_metrics


@pytest.mark.parametrize(
  ('prediction', 'answers', 'expected'),
  [
    ('Lima', ['Lima'], 1.0),
    ('the  LIMA.', ['Lima'], 1.0),
    ('Lima', ['Cuzco', 'Lima'], 1.0),
    ('Lima, Peru', ['Lima'], 0.0),
    ('', ['Lima'], 0.0),
    ('a', ['Lima'], 0.0),
    ('U.S.', ['US'], 1.0),
  ],
)
def test_exact_match(prediction, answers, expected):
  assert answer_metrics.exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
  ('prediction', 'answers', 'expected'),
  [
    ('Lima', ['Lima'], 1.0),
    # one of two predicted words, the only gold word: 2 * 1/2 * 1 / (3/2)
    ('Lima Peru', ['Lima'], 2 / 3),
    ('Lima Peru', ['Quito', 'Lima'], 2 / 3),
    # a repeated word counts as often as both have it: 2/3 and 2/2
    ('new new york', ['new york'], 0.8),
    ('Quito', ['Lima'], 0.0),
    ('the', ['Lima'], 0.0),
    ('', ['the'], 1.0),
  ],
)
def test_f1(prediction, answers, expected):
  assert answer_metrics.f1(prediction, answers) == pytest.approx(expected)


def test_scores_are_means_in_per_cent():
  scores = answer_metrics.answer_scores(
    ['Lima', 'Oslo Norway', 'x'], [['Lima'], ['Oslo'], ['y']]
  )
  assert scores['em'] == pytest.approx(100 / 3)
  assert scores['f1'] == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_a_string_is_no_list_of_answers():
  with pytest.raises(TypeError, match=r"\['Lima'\]"):
    answer_metrics.exact_match('Lima', 'Lima')


def test_a_question_without_answer_is_refused():
  with pytest.raises(ValueError, match='empty'):
    answer_metrics.f1('Lima', [])


def test_lengths_must_agree():
  with pytest.raises(ValueError, match='2 predictions for 1 questions'):
    answer_metrics.answer_scores(['a', 'b'], [['a']])
  with pytest.raises(ValueError, match='No question'):
    answer_metrics.answer_scores([], [])
