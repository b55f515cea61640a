"""The questions of a report, the same for all its rows, and their corpus."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
from typing import Any

from btr_jax.data import records as records_lib
from btr_jax.data.benchmarks import table as benchmarks
from btr_jax.evaluation import evaluator, task_metrics
from btr_jax.evaluation.study import settings
from btr_jax.retrieval import recall
from btr_jax.tools import common, corpora, questions

_CUTOFFS = (1, 5, 8, 20)


@dataclasses.dataclass(frozen=True)
class Task:
  """Questions with their passages.

  Attributes:
    name: of the task; `factbook` or one of the public benchmarks.
    source: of the questions, for people.
    records: every question that any sample holds.
    samples: places in `records`, one list per seed.
    metric: how answers are scored.
    corpus: what caches and indexes are built from.
    cached: which passages these are, for people.
    fingerprint: of questions, answers, passages and samples.
  """

  name: str
  source: str
  records: Sequence[records_lib.Record]
  samples: Sequence[Sequence[int]]
  metric: task_metrics.TaskMetric
  corpus: corpora.Corpus
  cached: str
  fingerprint: str

  def recall(self, passages: int) -> dict[str, float]:
    """recall@k in per cent, where answers stand in passages."""
    if not self.metric.in_passages:
      return {}
    most = max(len(record.contexts) for record in self.records)
    cutoffs = sorted({k for k in (*_CUTOFFS, passages) if k <= most})
    values = recall.recall_at_k(map(recall.judge, self.records), cutoffs)
    return {str(k): 100 * value for k, value in values.items()}


def read_corpus(
  name: str, records: Sequence[records_lib.Record]
) -> corpora.Corpus:
  """The passages of these questions as a corpus of their own.

  Raises:
    UserError: two passages have one id.
  """
  found: dict[str, records_lib.Passage] = {}
  for record in records:
    for context in record.contexts:
      known = found.setdefault(context.id, context.passage)
      if known != context.passage:
        raise common.UserError(
          f'two passages have the id {context.id!r}: {known.title!r} and '
          f'{context.title!r}. A cache knows passages by their id; number '
          'them by the corpus that they are of.'
        )
  if not found:
    raise common.UserError(
      'no question has a passage to read; give some by --retrieved.'
    )
  return corpora.Corpus(name, list(found.values()))


def _fingerprint(
  records: Sequence[records_lib.Record], samples: Sequence[Sequence[int]]
) -> str:
  return settings.fingerprint(
    [
      [
        [r.id, r.question, r.answers, [(c.id, c.text) for c in r.contexts]]
        for r in records
      ],
      samples,
    ]
  )


def load(arguments: argparse.Namespace) -> Task:
  """Reads the questions that the arguments name.

  Args:
    arguments: task, questions, retrieved, corpus, whole_corpus, split, limit,
      seeds.

  Returns:
    The task.

  Raises:
    UserError, ValueError, FileNotFoundError: see `questions.load` and
      `corpora.load_questions`.
  """
  name = arguments.task or corpora.FACTBOOK
  metric = task_metrics.SQUAD
  source = f'{corpora.FACTBOOK} {arguments.split}'
  if arguments.task:
    metric = task_metrics.metric(benchmarks.benchmark(name).metric)
    found, _ = questions.load(arguments)
    source = common.short_path(arguments.questions)
  else:
    if arguments.questions:
      raise common.UserError(
        f'--questions {arguments.questions} needs --task, which decides how '
        'answers are scored.'
      )
    found = corpora.load_questions(None, arguments.split, build=True)
  samples = evaluator.sample_questions(
    len(found), arguments.limit, arguments.seeds
  )
  needed = sorted(set().union(*samples))
  place = {number: i for i, number in enumerate(needed)}
  samples = [[place[number] for number in sample] for sample in samples]
  records = [found[number] for number in needed]
  if not arguments.task:
    corpus = corpora.load_corpus(corpora.FACTBOOK, build=True)
    cached = f'all {len(corpus.passages):,} passages of the corpus'
  elif arguments.whole_corpus:
    if not arguments.corpus:
      raise common.UserError('--whole-corpus needs --corpus.')
    corpus = corpora.load_corpus(arguments.corpus, build=True)
    cached = f'all {len(corpus.passages):,} passages of {corpus.name}'
  else:
    corpus = read_corpus(f'{name}-asked', records)
    cached = (
      f'the {len(corpus.passages):,} passages of these questions alone '
      '(--whole-corpus takes all)'
    )
  return Task(
    name=name,
    source=source,
    records=records,
    samples=samples,
    metric=metric,
    corpus=corpus,
    cached=cached,
    fingerprint=_fingerprint(records, samples),
  )


def identity(task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
  """What all rows of the task must share to stand in one table."""
  return {
    'task': task.name,
    'questions': len(task.records),
    'questions_fingerprint': task.fingerprint[:16],
    'seeds': arguments.seeds,
    'batch': arguments.batch,
    'speed_questions': arguments.speed_questions,
    'repeats': arguments.repeats,
  }
