"""Questions per second, measured so that two modes may be compared.

All modes run in one process on the same questions, passages and padding. They
take turns batch by batch and the order rotates, so that whatever else the
machine does hits all of them alike; each repeat gives one ratio per mode, and
the median of the repeats is told with its smallest and largest. Compilation is
done before the clock starts and reported apart. Retrieval is not in it: it is
the same for all modes, and `retrieval_speed` times it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import statistics
import time
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Reads(Protocol):
  """What is measured; `btr_jax.serving.engine.Engine` is one."""

  compile_seconds: float

  def read(self, records: Sequence[Any]) -> Sequence[Any]: ...


@dataclasses.dataclass(frozen=True)
class Spread:
  """A median with the smallest and largest of its repeats."""

  median: float
  smallest: float
  largest: float

  @classmethod
  def of(cls, values: Sequence[float]) -> Spread:
    return cls(statistics.median(values), min(values), max(values))

  def to_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ModeSpeed:
  """How fast one mode read.

  Attributes:
    questions_per_second: over all repeats.
    speedup: ratio to the baseline mode, repeat by repeat.
    cpu_seconds_per_question: processor time of all threads, the measure that
      a busy machine disturbs least.
    seconds_per_question: median by part: look_up, encode, decode.
    compile_seconds: spent before the clock started.
  """

  questions_per_second: Spread
  speedup: Spread
  cpu_seconds_per_question: Spread
  seconds_per_question: dict[str, float]
  compile_seconds: float

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def _batches(records: Sequence[Any], size: int) -> list[Sequence[Any]]:
  # A smaller last batch would be another shape, compiled on the clock.
  return [
    records[start : start + size]
    for start in range(0, len(records) - size + 1, size)
  ]


def measure(
  engines: Mapping[str, Reads],
  records: Sequence[Any],
  *,
  batch_size: int = 1,
  repeats: int = 5,
  baseline: str | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, ModeSpeed]:
  """Reads the same records by every engine, taking turns.

  Args:
    engines: by name of the mode.
    records: questions with their passages; those beyond the last full batch
      are left out.
    batch_size: questions read at once.
    repeats: how often every engine reads all of them on the clock.
    baseline: the engine that speed-ups are told against; None takes the first.
    progress: called with batches done and batches in all.

  Returns:
    The speed of each engine, by name.

  Raises:
    ValueError: too few records for a batch, no repeat, unknown baseline.
  """
  names = list(engines)
  baseline = names[0] if baseline is None else baseline
  if baseline not in engines:
    raise ValueError(f'baseline is {baseline!r}; expected one of {names}.')
  if repeats < 1:
    raise ValueError(f'repeats is {repeats}; expected at least 1.')
  batches = _batches(records, batch_size)
  if not batches:
    raise ValueError(
      f'{len(records)} questions do not fill a batch of {batch_size}; '
      'take more questions or a smaller batch.'
    )

  total = (repeats + 1) * len(batches)
  done = 0
  for batch in batches:  # warm-up: compiles every shape, touches every file
    for engine in engines.values():
      engine.read(batch)
    done += 1
    progress(done, total)
  compile_seconds = {n: engine.compile_seconds for n, engine in engines.items()}

  wall = {name: [0.0] * repeats for name in names}
  cpu = {name: [0.0] * repeats for name in names}
  parts: dict[str, list[dict[str, float]]] = {name: [] for name in names}
  turn = 0
  for repeat in range(repeats):
    for batch in batches:
      turn += 1
      for position in range(len(names)):
        name = names[(position + turn) % len(names)]
        cpu_start, start = time.process_time(), time.perf_counter()
        answers = engines[name].read(batch)
        wall[name][repeat] += time.perf_counter() - start
        cpu[name][repeat] += time.process_time() - cpu_start
        parts[name].append(answers[0].timings.to_dict())
      done += 1
      progress(done, total)

  for name, engine in engines.items():
    if engine.compile_seconds != compile_seconds[name]:
      raise RuntimeError(
        f'{name} compiled while the clock ran, so its figures are wrong; the '
        'warm-up must see every shape of the measured questions.'
      )
  questions = len(batches) * batch_size
  return {
    name: ModeSpeed(
      questions_per_second=Spread.of([questions / t for t in wall[name]]),
      speedup=Spread.of(
        [b / t for b, t in zip(wall[baseline], wall[name], strict=True)]
      ),
      cpu_seconds_per_question=Spread.of([t / questions for t in cpu[name]]),
      seconds_per_question={
        part: statistics.median(p[part] for p in parts[name]) / batch_size
        for part in parts[name][0]
        if part != 'retrieve'
      },
      compile_seconds=compile_seconds[name],
    )
    for name in names
  }


def retrieval_speed(
  search: Callable[[list[str]], Any],
  questions: Sequence[str],
  *,
  repeats: int = 3,
) -> Spread:
  """Seconds that retrieval takes for one question, asked one by one.

  Args:
    search: from a list of one question to its hits.
    questions: at least one.
    repeats: passes over all questions, after one that does not count.

  Returns:
    Seconds per question.

  Raises:
    ValueError: no question.
  """
  if not questions:
    raise ValueError('No question to retrieve for; expected at least one.')
  search([questions[0]])
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    for question in questions:
      search([question])
    seconds.append((time.perf_counter() - start) / len(questions))
  return Spread.of(seconds)
