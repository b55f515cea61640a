"""The clock: turns, ratios, compilation and refusals."""

from __future__ import annotations

import dataclasses
import time

import pytest

from btr_jax.evaluation import throughput
from btr_jax.serving import engine


@dataclasses.dataclass
class FakeAnswer:
  timings: engine.Timings


class FakeEngine:
  """Takes a set time for every batch and writes down when it was called."""

  def __init__(self, name, seconds, log, compiles_always=False):
    self.compile_seconds = 0.0
    self._name = name
    self._seconds = seconds
    self._log = log
    self._compiles_always = compiles_always

  def read(self, records):
    if not self.compile_seconds or self._compiles_always:
      self.compile_seconds += 1.5
    self._log.append((self._name, tuple(records)))
    time.sleep(self._seconds)
    timings = engine.Timings(9.0, 0.25, 0.5, 1.0)
    return [FakeAnswer(timings) for _ in records]


def test_modes_take_turns_and_the_order_rotates():
  log = []
  engines = {name: FakeEngine(name, 0.0, log) for name in 'ab'}
  throughput.measure(engines, [1, 2, 3, 4, 5], batch_size=2, repeats=2)
  # Two full batches; the fifth question fills none. One warm-up, two repeats.
  assert [batch for _, batch in log[::2]] == [(1, 2), (3, 4)] * 3
  assert log[::2] != log[1::2]
  measured = [name for name, _ in log[4:]]
  assert measured == ['b', 'a', 'a', 'b', 'b', 'a', 'a', 'b']


def test_speed_and_ratio():
  log = []
  engines = {
    'joint': FakeEngine('joint', 0.04, log),
    'binary': FakeEngine('binary', 0.01, log),
  }
  speeds = throughput.measure(engines, [1, 2, 3], repeats=3)
  joint, binary = speeds['joint'], speeds['binary']
  assert joint.speedup == throughput.Spread(1.0, 1.0, 1.0)
  # A sleep is never shorter than asked for, and on a busy machine longer.
  assert 5 < joint.questions_per_second.median <= 25
  assert 1.5 < binary.speedup.median <= 8
  ratio = binary.questions_per_second.median / joint.questions_per_second.median
  assert binary.speedup.median == pytest.approx(ratio, rel=0.5)
  assert binary.compile_seconds == 1.5
  assert binary.seconds_per_question == {
    'look_up': 0.25,
    'encode': 0.5,
    'decode': 1.0,
  }
  # Sleeping costs no processor time.
  assert joint.cpu_seconds_per_question.median < 0.02


def test_parts_are_told_per_question():
  speeds = throughput.measure(
    {'a': FakeEngine('a', 0.0, [])}, [1, 2, 3, 4], batch_size=4, repeats=1
  )
  assert speeds['a'].seconds_per_question['decode'] == 0.25


def test_compiling_on_the_clock_is_refused():
  engines = {'a': FakeEngine('a', 0.0, [], compiles_always=True)}
  with pytest.raises(RuntimeError, match='compiled while the clock ran'):
    throughput.measure(engines, [1])


def test_progress_reaches_the_end():
  calls = []
  throughput.measure(
    {'a': FakeEngine('a', 0.0, [])},
    [1, 2],
    repeats=3,
    progress=lambda done, total: calls.append((done, total)),
  )
  assert calls == [(n, 8) for n in range(1, 9)]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'batch_size': 3}, '2 questions do not fill a batch of 3'),
    ({'repeats': 0}, 'repeats is 0'),
    ({'baseline': 'joint'}, "baseline is 'joint'"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    throughput.measure({'a': FakeEngine('a', 0.0, [])}, [1, 2], **arguments)


def test_retrieval_is_timed_one_question_at_a_time():
  asked = []
  spread = throughput.retrieval_speed(asked.append, ['x', 'y'], repeats=2)
  assert asked == [['x']] + [['x'], ['y']] * 2
  assert 0 <= spread.smallest <= spread.median <= spread.largest
  with pytest.raises(ValueError, match='No question'):
    throughput.retrieval_speed(asked.append, [])
