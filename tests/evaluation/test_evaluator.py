"""Samples of questions and their scores."""

from __future__ import annotations

import dataclasses

import pytest

from btr_jax.data.records import Record
from btr_jax.evaluation import evaluator


@dataclasses.dataclass
class Said:
  text: str


class Parrot:
  """Answers every question with itself and counts the batches."""

  def __init__(self):
    self.batches = []

  def read(self, records):
    self.batches.append(len(records))
    return [Said(record.question) for record in records]


def record(number, answer):
  return Record(f'q{number}', f'text {number}', (answer,))


def test_samples_depend_on_the_seed_alone():
  first, second = evaluator.sample_questions(100, 10, [0, 1])
  assert first == evaluator.sample_questions(100, 10, [0])[0]
  assert first != second
  assert first == sorted(set(first)) and len(first) == 10
  assert 0 <= first[0] and first[-1] < 100


@pytest.mark.parametrize('size', [None, 5, 7])
def test_all_questions_are_one_sample(size):
  assert evaluator.sample_questions(5, size, [0, 1, 2]) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, None, [0]), 'no question'),
    ((3, 0, [0]), 'sample size is 0'),
    ((3, 2, []), 'No seed'),
  ],
)
def test_bad_samples(arguments, message):
  with pytest.raises(ValueError, match=message):
    evaluator.sample_questions(*arguments)


def test_predict_reads_in_batches():
  engine, calls = Parrot(), []
  records = [record(i, 'x') for i in range(5)]
  predictions = evaluator.predict(
    engine, records, batch_size=2, progress=lambda *args: calls.append(args)
  )
  assert predictions == [f'text {i}' for i in range(5)]
  assert engine.batches == [2, 2, 1]
  assert calls == [(2, 5), (4, 5), (5, 5)]


def test_score_is_the_mean_of_samples():
  records = [record(0, 'text 0'), record(1, 'other'), record(2, 'text 2')]
  predictions = ['text 0', 'text 1', 'text 2']
  scores = evaluator.score(predictions, records, [[0, 1], [0, 2]])
  assert scores['em'].by_sample == (50.0, 100.0)
  assert scores['em'].mean == 75.0
  # Of a sample, not of a population: 25 * sqrt(2).
  assert scores['em'].deviation == pytest.approx(35.3553, abs=1e-3)
  assert scores['em'].to_dict()['by_sample'] == [50.0, 100.0]


def test_a_single_sample_has_no_deviation():
  assert evaluator.Score.of([80.0]) == evaluator.Score(80.0, 0.0, (80.0,))


def test_score_needs_a_prediction_each():
  with pytest.raises(ValueError, match='1 predictions for 2 questions'):
    evaluator.score(['a'], [record(0, 'a'), record(1, 'b')], [[0]])
