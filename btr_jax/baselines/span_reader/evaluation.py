"""Scores and speed of a span reader over questions with passages."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import statistics
import time
from typing import Any

import numpy as np

from btr_jax.baselines.span_reader import files
from btr_jax.baselines.span_reader.reader import SpanReader
from btr_jax.data.records import Record
from btr_jax.evaluation import answer_metrics

_STAGE_FOLDERS = {
  'joint': 'stage1_joint',
  'decomposed': 'stage2_decomposed',
  'binary': 'stage3_binary',
}


def sample(
  records: Sequence[Record], limit: int | None, seed: int
) -> list[Record]:
  """`limit` of the records, in their order; all without a limit."""
  if limit is None or limit >= len(records):
    return list(records)
  chosen = np.random.default_rng(seed).permutation(len(records))[:limit]
  return [records[index] for index in sorted(chosen)]


def reader_of(path: pathlib.Path, mode: str) -> SpanReader:
  """The reader of a mode in a run's folder, or that of a reader's folder.

  Raises:
    ValueError: neither is there.
  """
  trained = path / _STAGE_FOLDERS[mode] / 'reader'
  found = trained if (trained / files.READER_FILE).is_file() else path
  return SpanReader.load(found, mode)


def evaluate(
  reader: SpanReader,
  records: Sequence[Record],
  *,
  batch_size: int = 8,
  repeats: int = 1,
  cache: pathlib.Path | None = None,
  ratio: float | None = None,
) -> dict[str, Any]:
  """Answers questions and scores them.

  The batches have compiled before the clock runs. Tokenizing counts in every
  mode; in mode binary with a cache, encoding passages does not.

  Args:
    reader: in the mode to be measured.
    records: with passages; those without answers have no score.
    batch_size: questions read at once.
    repeats: timed runs; the median counts.
    cache: folder of mode binary's cache, built if it is not there.
    ratio: of its offline compression; None reads it as it is.

  Returns:
    JSON-able: mode, questions, passages, em, f1, seconds, ...
  """
  questions = [record.question for record in records]
  passages = [[c.passage for c in record.contexts] for record in records]
  if cache is not None and reader.mode == 'binary':
    reader.use_cache(cache, passages, ratio)
  batches = range(0, len(records), batch_size)

  def answers() -> list[str]:
    found = []
    for start in batches:
      part = slice(start, start + batch_size)
      found += reader.answer(questions[part], passages[part], batch_size)
    return found

  predicted, seconds = answers(), []
  for _ in range(repeats):
    began = time.perf_counter()
    predicted = answers()
    seconds.append(time.perf_counter() - began)
  scores = answer_metrics.answer_scores(
    predicted, [record.answers for record in records]
  )
  median = statistics.median(seconds)
  return {
    'mode': reader.mode,
    'questions': len(records),
    'passages_per_question': max(map(len, passages)),
    'em': scores['em'],
    'f1': scores['f1'],
    'seconds': seconds,
    'questions_per_second': len(records) / median,
    'batch_size': batch_size,
    'cached': reader.has_cache,
    'compression': ratio if reader.has_cache else None,
    'bytes_per_token': reader.bytes_per_token,
    'provenance': dict(reader.provenance),
  }


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
  """Enters EM and speed relative to the joint row of the same data."""
  joint = {row['data']: row for row in rows if row['mode'] == 'joint'}
  for row in rows:
    base = joint.get(row['data'])
    if base is not None and base['em']:
      row['em_of_joint'] = row['em'] / base['em']
      row['speed_up'] = (
        row['questions_per_second'] / base['questions_per_second']
      )
