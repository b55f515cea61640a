"""One row of a report: start what answers, ask it, time it, write down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import time
from typing import Any, Protocol, runtime_checkable

from btr_jax.data import records as records_lib
from btr_jax.evaluation import (
  environment,
  evaluator,
  multiple_choice,
  throughput,
)
from btr_jax.evaluation.study import settings
from btr_jax.tools import progress as progress_lib
from btr_jax.tools import report_task

# Batches of the answers that a row's time is estimated from, after as many
# that may have compiled something.
_FIRST_BATCHES = 3


class NotRun(Exception):
  """A row that cannot run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Running:
  """Something that answers.

  Attributes:
    engine: reads records, as `throughput.Reads`.
    model_bytes: of its weights on disk.
    bytes_per_token: of its cache or index on disk, by the tokens of its
      passages; 0 without one.
    storage: the parts of it, in bytes per token; None without one.
    store_bytes: of the whole cache or index; 0 without one.
    details: what else a reader of the row should know.
  """

  engine: Any
  model_bytes: int | None = None
  bytes_per_token: float | None = 0.0
  storage: Mapping[str, float] | None = None
  store_bytes: int = 0
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def of_cache(storage: Mapping[str, Any] | None) -> dict[str, Any]:
  """What `Running` tells of a cache.

  Args:
    storage: of `cache.storage_report`; None without a cache.

  Returns:
    `bytes_per_token`, `storage` and `store_bytes`.
  """
  if storage is None:
    return {'bytes_per_token': 0.0, 'storage': None, 'store_bytes': 0}
  return {
    'bytes_per_token': storage['total']['bytes_per_token'],
    'storage': {
      name: part['bytes_per_token'] for name, part in storage['parts'].items()
    },
    'store_bytes': storage['total']['bytes'],
  }


@runtime_checkable
class Source(Protocol):
  """Where the systems come from that are no reader of the family."""

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of what answers. Raises NotRun where that is missing."""

  def start(self, setting: settings.Setting) -> Running:
    """Gets it ready. Raises NotRun."""

  def finished(self, setting: settings.Setting) -> None:
    """Puts away what only this row needed."""


@dataclasses.dataclass(frozen=True)
class Options:
  """How rows are run.

  Attributes:
    batch: questions at once.
    speed_questions: that speed is measured on.
    repeats: of the speed measurement; 0 leaves it out.
    row_seconds: a row whose answers would take longer is not run; its speed
      is measured on as many questions as fit into the same time.
  """

  batch: int
  speed_questions: int
  repeats: int
  row_seconds: float


class Rows:
  """Runs rows of one task."""

  def __init__(
    self,
    task: report_task.Task,
    family: Source,
    others: Mapping[str, Source],
    options: Options,
  ):
    """Nothing runs yet.

    Args:
      task: questions and corpus.
      family: of the systems that have no source of their own.
      others: sources by system.
      options: how rows are run.
    """
    self._task = task
    self._family = family
    self._others = others
    self._options = options
    self._baselines: dict[settings.Setting, Running] = {}

  def _source(self, setting: settings.Setting) -> Source:
    return self._others.get(setting.system, self._family)

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of all that a row depends on but what `report_task.identity` tells.

    Raises:
      NotRun: what it needs is missing.
    """
    parts: list[Any] = [
      setting.to_dict(),
      self._source(setting).fingerprint(setting),
    ]
    other = setting.baseline
    if other is not None:
      try:
        parts.append(self._source(other).fingerprint(other))
      except NotRun:
        parts.append(None)
    return settings.fingerprint(parts)

  def run(self, setting: settings.Setting, timed: bool) -> dict[str, Any]:
    """Runs a row.

    Args:
      setting: what answers.
      timed: whether its speed is measured.

    Returns:
      Its record, as JSON values.

    Raises:
      NotRun: what it needs is missing, or it would take too long.
    """
    begun = time.monotonic()
    fingerprint = self.fingerprint(setting)
    running = self._start(setting)
    started = time.monotonic()
    predictions = self._predict(running, setting.slug)
    answered = time.monotonic()
    speeds = {}
    if timed and self._options.repeats:
      slow = (answered - started) / len(self._task.records)
      speeds = self._speeds(running, setting, self._timed(slow))
    metric = self._task.metric
    scores = evaluator.score(
      predictions, self._task.records, self._task.samples, metric
    )
    pairs = zip(predictions, self._task.records, strict=True)
    record = {
      'task': self._task.name,
      'row': setting.slug,
      'fingerprint': fingerprint,
      'setting': setting.to_dict(),
      'metrics': list(metric.shown),
      'headline': metric.headline,
      'scores': {name: score.to_dict() for name, score in scores.items()},
      'questions': len(self._task.records),
      'by_question': [
        metric.score([answer], [record])[metric.headline]
        for answer, record in pairs
      ],
      'speed': speeds.get('row'),
      'baseline': setting.baseline and setting.baseline.slug,
      'baseline_speed': speeds.get('baseline'),
      'speed_questions': speeds.get('questions'),
      'bytes_per_token': running.bytes_per_token,
      'storage': running.storage and {'parts': dict(running.storage)},
      'store_bytes': running.store_bytes,
      'model_bytes': running.model_bytes,
      'details': dict(running.details),
      'seconds': {
        'start': started - begun,
        'answers': answered - started,
        'speed': time.monotonic() - answered,
      },
      'environment': environment.environment(),
      'answers': [
        {'id': record.id, 'answer': answer}
        for record, answer in zip(self._task.records, predictions, strict=True)
      ],
    }
    self._source(setting).finished(setting)
    return record

  def _start(self, setting: settings.Setting) -> Running:
    """Ready to answer; what others are told against stays ready."""
    if setting.baseline is not None:
      return self._source(setting).start(setting)
    if setting not in self._baselines:
      self._baselines[setting] = self._source(setting).start(setting)
    return self._baselines[setting]

  def _predict(self, running: Running, name: str) -> list[str]:
    # There is nothing to read without passages: such an answer is empty.
    records = self._task.records
    readable = [i for i, record in enumerate(records) if record.contexts]
    predict = evaluator.predict
    if self._task.metric.letters and hasattr(running.engine, 'letter_logits'):
      predict = functools.partial(multiple_choice.predict, cyclic=False)
    with progress_lib.Progress(name) as progress:
      answers = predict(
        running.engine,
        [records[i] for i in readable],
        batch_size=self._options.batch,
        progress=_Budget(progress, self._options, running.engine),
      )
    found = dict(zip(readable, answers, strict=True))
    return [found.get(i, '') for i in range(len(records))]

  def _speeds(
    self,
    running: Running,
    setting: settings.Setting,
    timed: Sequence[records_lib.Record],
  ) -> dict[str, Any]:
    """Of the row and of what it is told against, in turns."""
    engines = {'row': running.engine}
    if setting.baseline is not None:
      try:
        other = self._start(setting.baseline)
      except NotRun:
        pass  # Then there is no speed-up to tell.
      else:
        engines = {'baseline': other.engine, **engines}
    with progress_lib.Progress(f'{setting.slug}, speed') as progress:
      speeds = throughput.measure(
        engines,
        timed,
        batch_size=self._options.batch,
        repeats=self._options.repeats,
        progress=progress,
      )
    found: dict[str, Any] = {'questions': len(timed)}
    found |= {name: speed.to_dict() for name, speed in speeds.items()}
    if setting.baseline is not None and 'baseline' not in engines:
      found['row']['speedup'] = None
    return found

  def _timed(self, seconds: float) -> Sequence[records_lib.Record]:
    """What speed is measured on: fewer for a row that is very slow.

    Args:
      seconds: that the row's answers took, per question.
    """
    options = self._options
    readable = [r for r in self._task.records if r.contexts]
    room = options.row_seconds / (seconds * (options.repeats + 1) + 1e-9)
    return readable[
      : min(options.speed_questions, max(options.batch, int(room)))
    ]


class _Budget:
  """Passes progress on, and stops a row that would take too long."""

  def __init__(self, progress: Any, options: Options, engine: Any):
    self._progress = progress
    self._engine = engine
    self._seconds = options.row_seconds
    self._batch = options.batch
    self._first: tuple[int, float] | None = None

  def __call__(self, done: int, total: int) -> None:
    self._progress(done, total)
    # A batch of another shape is compiled once, which says nothing of the rest.
    now = time.monotonic() - self._engine.compile_seconds
    batches = -(-done // self._batch)
    if self._first is None:
      if batches >= _FIRST_BATCHES:
        self._first = done, now
      return
    if batches < 2 * _FIRST_BATCHES:
      return
    since, start = self._first
    left = (now - start) / (done - since) * (total - done)
    if left > self._seconds:
      raise NotRun(
        f'its {total} answers would take '
        f'{progress_lib.duration(left)} more, by the first {done}; '
        '--row-minutes allows more.'
      )
