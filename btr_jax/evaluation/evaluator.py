"""Scores of a reader over samples of a question set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import statistics
from typing import Any, Protocol, runtime_checkable

import numpy as np

from btr_jax.data.records import Record
from btr_jax.evaluation import task_metrics


@runtime_checkable
class Reads(Protocol):
  """What answers; `btr_jax.serving.engine.Engine` is one."""

  def read(self, records: Sequence[Record]) -> Sequence[Any]: ...


@dataclasses.dataclass(frozen=True)
class Score:
  """A score in per cent over several samples of questions.

  Attributes:
    mean: of the samples.
    deviation: standard deviation between the samples; 0 for a single one.
    by_sample: the score of each sample.
  """

  mean: float
  deviation: float
  by_sample: tuple[float, ...]

  @classmethod
  def of(cls, values: Sequence[float]) -> Score:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return cls(statistics.fmean(values), deviation, tuple(values))

  def to_dict(self) -> dict[str, Any]:
    return {
      'mean': self.mean,
      'deviation': self.deviation,
      'by_sample': list(self.by_sample),
    }


def sample_questions(
  num_questions: int, size: int | None, seeds: Sequence[int]
) -> list[list[int]]:
  """Draws one sample of question numbers per seed, without replacement.

  Args:
    num_questions: how many there are.
    size: questions of a sample; None, or more than there are, takes all.
    seeds: one sample each.

  Returns:
    Sorted question numbers; a single list of all where the samples would all
    be the same.

  Raises:
    ValueError: no question, size below 1, or no seed.
  """
  if num_questions < 1:
    raise ValueError('There is no question to sample from.')
  if size is not None and size < 1:
    raise ValueError(f'The sample size is {size}; expected at least 1.')
  if not seeds:
    raise ValueError('No seed is given; expected at least one, such as 0.')
  if size is None or size >= num_questions:
    return [list(range(num_questions))]
  return [
    sorted(
      np.random.default_rng(seed)
      .choice(num_questions, size, replace=False)
      .tolist()
    )
    for seed in seeds
  ]


def predict(
  engine: Reads,
  records: Sequence[Record],
  *,
  batch_size: int = 1,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
  """Reads the answer to every question from the passages in its record.

  Args:
    engine: the reader.
    records: questions with their passages.
    batch_size: questions read at once.
    progress: called with questions done and questions in all.

  Returns:
    One answer per record.
  """
  predictions: list[str] = []
  for start in range(0, len(records), batch_size):
    batch = records[start : start + batch_size]
    predictions.extend(answer.text for answer in engine.read(batch))
    progress(len(predictions), len(records))
  return predictions


def score(
  predictions: Sequence[str],
  records: Sequence[Record],
  samples: Sequence[Sequence[int]],
  metric: task_metrics.TaskMetric = task_metrics.SQUAD,
) -> dict[str, Score]:
  """Scores predictions over samples.

  Args:
    predictions: one per record.
    records: questions with their gold answers.
    samples: numbers of records, from `sample_questions`.
    metric: of the task; exact match and F1 by default.

  Returns:
    A Score for each value of the metric, `{'em': Score, 'f1': Score}` by
    default; of a class that not every sample holds, over those that do.

  Raises:
    ValueError: lists of different lengths, or a question without an answer.
  """
  if len(predictions) != len(records):
    raise ValueError(
      f'{len(predictions)} predictions for {len(records)} questions; expected '
      'as many of one as of the other.'
    )
  found = [
    metric.score([predictions[i] for i in sample], [records[i] for i in sample])
    for sample in samples
  ]
  names = dict.fromkeys(name for values in found for name in values)
  return {
    name: Score.of([values[name] for values in found if name in values])
    for name in names
  }
