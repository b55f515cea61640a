"""Predicted tokens to answers, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np

from btr_jax import config as config_lib
from btr_jax.data import encoding, prompts
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.data.records import Record
from btr_jax.evaluation import answer_metrics, task_metrics

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]


def answer_text(tokens: np.ndarray, vocabulary: Any) -> str:
  """The answer that target tokens [length] spell, without the sentinel."""
  return prompts.parse_answer(vocabulary.decode(tokens.tolist()))


def make_scorer(vocabulary: Any) -> Scorer:
  """A function from tokens to {'em', 'f1'} in per cent.

  It takes predicted, target and question tokens, int32 [examples, length]
  each. The target of the batch is the one gold answer here.
  """

  def score(
    predicted: np.ndarray, targets: np.ndarray, questions: np.ndarray
  ) -> dict[str, float]:
    del questions
    return answer_metrics.answer_scores(
      [answer_text(row, vocabulary) for row in predicted],
      [[answer_text(row, vocabulary)] for row in targets],
    )

  return score


def make_task_scorer(
  vocabulary: vocabulary_lib.Vocabulary,
  limits: config_lib.InputLimits,
  metric: task_metrics.TaskMetric,
  records: Iterable[Record],
) -> Scorer:
  """Like `make_scorer`, but by the task's metric and against all answers.

  Records are found again by the tokens of question and target, since batches
  hold nothing else, and processes hold their rows in an order of their own.

  Args:
    vocabulary: of the batches.
    limits: of the batches.
    metric: of the task.
    records: of the split that is evaluated.
  """
  gold: Mapping[tuple[bytes, bytes], Record] = {
    (
      _key(
        encoding.question_ids(
          vocabulary, record.question, limits.question_length
        )
      ),
      _key(
        encoding.answer_ids(vocabulary, record.answers[0], limits.answer_length)
      ),
    ): dataclasses.replace(record, contexts=())
    for record in records
  }

  def record_of(question: np.ndarray, target: np.ndarray) -> Record:
    key = (_key(question[question != 0]), _key(target[target != 0]))
    try:
      return gold[key]
    except KeyError:
      raise ValueError(
        'A question of the validation batches is not among the records of the '
        f'split: {vocabulary.decode(question.tolist())!r}. Expected files that '
        'stay as they are while a run goes on.'
      ) from None

  def score(
    predicted: np.ndarray, targets: np.ndarray, questions: np.ndarray
  ) -> dict[str, float]:
    return metric.score(
      [answer_text(row, vocabulary) for row in predicted],
      [record_of(*row) for row in zip(questions, targets, strict=True)],
    )

  return score


def _key(ids: Any) -> bytes:
  """Token ids without padding, as a key."""
  return np.asarray(ids, np.int32).tobytes()
