"""The loop: resuming, stopping, diverging, prefetching, reporting."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import threading

import jax
import numpy as np
import optax
import pytest

from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import loop as loop_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import partitioning
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib


@pytest.fixture
def train(one_device_mesh, table_model, make_table_batches):
  """A function that trains the table model in a folder."""
  mesh = one_device_mesh
  optimizer = optax.adamw(0.01)
  abstract = state_lib.abstract_state(table_model, optimizer, mesh)
  step_fn = step_lib.make_train_step(
    table_model, optimizer, lambda step: 0.01, abstract, mesh, seed=7
  )

  def run(folder, stop=None, batches=None, evaluate=None, **config):
    config = loop_lib.LoopConfig(
      **{'log_period': 2, 'eval_period': 0, 'save_period': 2, **config}
    )
    with checkpoints_lib.Checkpoints(folder) as checkpoints:
      if checkpoints.latest_step() is None:
        state = state_lib.create_state(
          abstract,
          optimizer,
          state_lib.init_params(table_model, abstract, 0),
          {},
        )
      else:
        state = checkpoints.restore(abstract)
      given = batches or make_table_batches
      with metrics_lib.MetricWriters(
        folder, 'test', tensorboard=False
      ) as writers:
        with loop_lib.Prefetcher(
          given(start_step=int(state.step)),
          lambda batch: partitioning.shard_batch(batch, mesh),
        ) as prefetched:
          return loop_lib.run_loop(
            state,
            step_fn,
            prefetched,
            config,
            name='test',
            batch_size=8,
            checkpoints=checkpoints,
            writers=writers,
            stop=stop or loop_lib.StopSignal(),
            evaluate=evaluate,
          )

  return run


def read_metrics(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, train):
  whole, finished = train(tmp_path / 'whole', total_steps=10)
  assert finished
  train(tmp_path / 'parts', total_steps=4)
  resumed, _ = train(tmp_path / 'parts', total_steps=10)
  assert int(resumed.step) == 10
  assert_same(whole, resumed)


class StopAfter:
  """Batches that ask for a stop before giving the n-th."""

  def __init__(self, batches, count, action):
    self._batches, self._count, self._action = batches, count, action

  def __call__(self, start_step=0):
    for index, batch in enumerate(self._batches(start_step=start_step)):
      if index == self._count:
        self._action()
      yield batch


def test_sigterm_saves_and_goes_on_bit_for_bit(
  tmp_path, train, make_table_batches
):
  whole, _ = train(tmp_path / 'whole', total_steps=40)
  with loop_lib.StopSignal() as stop:
    batches = StopAfter(
      make_table_batches, 5, lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    state, finished = train(
      tmp_path / 'parts',
      stop=stop,
      batches=batches,
      total_steps=40,
      save_period=0,
    )
  step = int(state.step)
  assert not finished and 0 < step < 40
  assert checkpoints_lib.steps_in(tmp_path / 'parts') == [step]
  resumed, finished = train(tmp_path / 'parts', total_steps=40)
  assert finished
  assert_same(whole, resumed)


class TermAfter(loop_lib.StopSignal):
  """Gets SIGTERM while the loop asks whether to go on after a step."""

  def __init__(self, step):
    super().__init__()
    self._step = step

  def reached(self, step):
    if step == self._step:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().reached(step)


def test_sigterm_at_any_step(tmp_path, train):
  """Also before the first step, and right after a save."""
  whole, _ = train(tmp_path / 'whole', total_steps=6)
  for step in range(6):
    folder = tmp_path / str(step)
    with TermAfter(step) as stop:
      state, finished = train(folder, stop=stop, total_steps=6)
    assert not finished and int(state.step) == step
    assert checkpoints_lib.steps_in(folder)[-1] == step
    resumed, finished = train(folder, total_steps=6)
    assert finished
    assert_same(whole, resumed)


def test_stop_signal_restores_the_handler():
  before = signal.getsignal(signal.SIGTERM)
  with loop_lib.StopSignal() as stop:
    assert signal.getsignal(signal.SIGTERM) != before
    assert not stop.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set()
  assert signal.getsignal(signal.SIGTERM) == before


def test_nan_stops_and_keeps_the_last_good_checkpoint(
  tmp_path, train, make_table_batches
):
  def batches(start_step=0):
    for index, batch in enumerate(make_table_batches(start_step=start_step)):
      if index == 5:
        batch['decoder_loss_weights'] = batch['decoder_loss_weights'] * np.nan
      yield batch

  with pytest.raises(loop_lib.TrainingDivergedError) as error:
    train(tmp_path, batches=batches, total_steps=10)
  for part in ('loss of step 6 is nan', 'checkpoint_4', 'LEARNING_RATE'):
    assert part in str(error.value)
  assert checkpoints_lib.steps_in(tmp_path) == [2, 4]


def test_batches_that_end_are_an_error(tmp_path, train, make_table_batches):
  def batches(start_step=0):
    return itertools.islice(make_table_batches(), 3)

  with pytest.raises(ValueError, match='ended at step 3 of 10'):
    train(tmp_path, batches=batches, total_steps=10)


def test_metrics_cover_every_step_once(tmp_path, train):
  evaluated = []

  def evaluate(params):
    evaluated.append(params)
    return {'em': 50.0}

  train(tmp_path, total_steps=6, log_period=2, eval_period=3, evaluate=evaluate)
  lines = read_metrics(tmp_path)
  assert [x['step'] for x in lines if 'train/loss' in x] == [2, 4, 6]
  assert [x['step'] for x in lines if 'eval/em' in x] == [3, 6]
  assert len(evaluated) == 2
  losses = [x['train/loss'] for x in lines if 'train/loss' in x]
  assert all(np.isfinite(losses))
  last = [x for x in lines if 'train/loss' in x][-1]
  assert last['perf/steps_per_second'] > 0
  assert last['perf/examples_per_second'] == pytest.approx(
    8 * last['perf/steps_per_second']
  )


def test_training_learns(tmp_path, train):
  train(tmp_path, total_steps=300, log_period=100, save_period=0)
  losses = [x['train/loss'] for x in read_metrics(tmp_path)]
  assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'total_steps': 0}, 'total_steps is 0'),
    ({'total_steps': 1, 'log_period': 0}, 'log_period is 0'),
    ({'total_steps': 1, 'save_period': -1}, 'save_period is -1'),
  ],
)
def test_loop_config_errors(kwargs, message):
  with pytest.raises(ValueError, match=message):
    loop_lib.LoopConfig(**kwargs)


def test_prefetcher_keeps_order_and_ends():
  with loop_lib.Prefetcher(iter(range(5)), lambda n: n * n) as items:
    assert list(items) == [0, 1, 4, 9, 16]
    assert list(items) == []


def test_prefetcher_passes_errors_on():
  def fail():
    yield 1
    raise OSError('the disk is gone')

  with loop_lib.Prefetcher(fail()) as items:
    assert next(items) == 1
    for _ in range(2):
      with pytest.raises(OSError, match='the disk is gone'):
        next(items)


def test_prefetcher_stays_a_few_items_ahead_and_closes():
  taken = []

  def count():
    for n in itertools.count():
      taken.append(n)
      yield n

  threads = threading.active_count()
  with loop_lib.Prefetcher(count(), size=2) as items:
    assert next(items) == 0
  assert len(taken) <= 5
  assert threading.active_count() == threads


def test_evaluation_skips_padding(
  one_device_mesh, table_model, make_table_batches
):
  abstract = state_lib.abstract_state(
    table_model, optax.sgd(0.1), one_device_mesh
  )
  params = state_lib.init_params(table_model, abstract, 0)
  batch = next(make_table_batches())
  for array in batch.values():
    array[5:] = 0  # Three examples of padding.
  seen = []

  def score(predicted, targets, questions):
    seen.append((predicted.shape, targets.shape))
    np.testing.assert_array_equal(targets, batch['decoder_target_tokens'][:5])
    np.testing.assert_array_equal(questions, batch['question_tokens'][:5])
    return {'em': 1.0}

  def evaluate(batches, **kwargs):
    return loop_lib.evaluate_batches(
      batches,
      params,
      put=lambda b: partitioning.shard_batch(b, one_device_mesh),
      eval_fn=step_lib.make_eval_step(table_model, one_device_mesh),
      predict_fn=step_lib.make_predict_step(table_model, one_device_mesh),
      score=score,
      **kwargs,
    )

  values = evaluate(iter([batch, batch]), num_batches=1)
  assert seen == [((5, 2), (5, 2))]
  assert set(values) == {'loss', 'em'}
  with pytest.raises(ValueError, match='no batch to evaluate'):
    evaluate(iter([]))


def test_progress_tells_rate_and_eta():
  clock = iter([0.0, 10.0, 100.0, 110.0])
  stream = io.StringIO()
  progress = metrics_lib.Progress(
    'stage1',
    1000,
    every_seconds=60.0,
    stream=stream,
    clock=lambda: next(clock),
  )
  for step in (1, 101, 201, 301):
    progress.update(step, 0.5)
  progress.close()
  # The first step compiles and is not counted; the second came too early.
  assert stream.getvalue() == (
    'stage1: step 201/1000 (20 %), loss 0.5000, 2.00 steps/s, ETA 6:40\n'
  )


def test_progress_draws_a_bar_on_a_terminal():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  progress = metrics_lib.Progress('stage1', 10, stream=stream)
  progress.update(1, 0.25)
  progress.update(10, 0.25)
  progress.close()
  assert 'stage1' in stream.getvalue() and '10/10' in stream.getvalue()


@pytest.mark.parametrize(
  'seconds, text', [(0.2, '0:00'), (61.0, '1:01'), (3723.0, '1:02:03')]
)
def test_format_seconds(seconds, text):
  assert metrics_lib.format_seconds(seconds) == text
