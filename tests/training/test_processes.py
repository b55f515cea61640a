"""Two processes as one run: same losses, resuming, signals, deaths."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from btr_jax.training import checkpoints as checkpoints_lib

pytestmark = pytest.mark.slow

STEPS = 8


def losses(run, stage='stage1'):
  lines = (run / stage / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  found = [(x['step'], x['train/loss']) for x in lines if 'train/loss' in x]
  assert [step for step, _ in found] == list(range(1, len(found) + 1))
  return [loss for _, loss in found]


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


class Launcher:
  """Command lines for runs of one process, or of two."""

  def __init__(self, server, gin_file):
    self._server, self._gin_file = server, gin_file

  def argv(self, run, **macros):
    flags = [f'--gin.{name}={value!r}' for name, value in macros.items()]
    return [f'--gin_file={self._gin_file}', f'--gin.MODEL_DIR={str(run)!r}'] + (
      flags
    )

  def one(self, run, **macros):
    pid, output = self._server.start(self.argv(run, **macros), devices=4)
    assert self._server.wait(pid) == 0, output.read_text()

  def start_two(self, run, flags=((), ()), count=2, **macros):
    address = f'--coordinator_address=127.0.0.1:{free_port()}'
    return [
      self._server.start(
        [
          *self.argv(run, **macros),
          address,
          '--process_count=2',
          f'--process_index={index}',
          *flags[index],
        ],
        devices=2,
      )
      for index in range(count)
    ]

  def two(self, run, **macros):
    started = self.start_two(run, **macros)
    for pid, output in started:
      assert self._server.wait(pid) == 0, output.read_text()


@pytest.fixture(scope='module')
def launch(train_server, spread_gin):
  return Launcher(train_server, spread_gin)


@pytest.fixture(scope='module')
def whole_run(launch, tmp_path_factory):
  """Losses and parameters of an uninterrupted run of one process."""
  run = tmp_path_factory.mktemp('whole') / 'run'
  launch.one(run)
  found = losses(run)
  assert len(found) == STEPS
  return found, checkpoints_lib.load_params(run / 'stage1')[0]


def assert_equals(run, whole_run):
  expected, params = whole_run
  np.testing.assert_allclose(losses(run), expected, rtol=0, atol=1e-5)
  found, step = checkpoints_lib.load_params(run / 'stage1')
  assert step == STEPS
  flat = checkpoints_lib._named(params)
  for name, leaf in checkpoints_lib._named(found).items():
    np.testing.assert_allclose(leaf, flat[name], rtol=0, atol=1e-4)
  # One process wrote the reader, and wrote all of it.
  assert (run / 'stage1' / 'reader' / 'reader.json').is_file()


def test_two_processes_then_one(launch, whole_run, tmp_path):
  run = tmp_path / 'run'
  launch.two(run, TRAIN_STEPS=4)
  assert checkpoints_lib.steps_in(run / 'stage1') == [4]
  launch.one(run, ACCEPT_CHANGES=True)
  assert_equals(run, whole_run)


def test_one_process_then_two_on_another_mesh(launch, whole_run, tmp_path):
  """The axis `model` spans both: they read the same share of the data."""
  run = tmp_path / 'run'
  launch.one(run, TRAIN_STEPS=4)
  launch.two(run, ACCEPT_CHANGES=True, MESH=(1, 4))
  assert_equals(run, whole_run)


def test_all_stages_with_evaluation(launch, tmp_path):
  """The codec is fitted to the same statistics on both processes."""
  run = tmp_path / 'run'
  launch.two(run, STAGE='all', TRAIN_STEPS=2, EVAL_BATCHES=2)
  metrics = (run / 'stage3_residual' / 'metrics.jsonl').read_text()
  assert 'train/recovery_loss' in metrics and 'eval/em' in metrics
  alone = tmp_path / 'alone'
  launch.one(alone, STAGE='all', TRAIN_STEPS=2)
  for stage in ('stage1', 'stage2', 'stage3_residual'):
    np.testing.assert_allclose(
      losses(run, stage), losses(alone, stage), rtol=0, atol=1e-5
    )
  fitted, _ = checkpoints_lib.load_params(run / 'stage3_residual')
  expected, _ = checkpoints_lib.load_params(alone / 'stage3_residual')
  for name in ('deviation', 'level', 'table'):
    np.testing.assert_allclose(
      fitted['codec'][name], expected['codec'][name], rtol=0, atol=1e-4
    )


def wait_for_step(run, outputs, step=2):
  metrics = run / 'stage1' / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not metrics.exists() or len(losses(run)) < step:
    assert time.monotonic() < deadline, [o.read_text() for o in outputs]
    time.sleep(0.05)


def test_sigterm_to_one_stops_both_at_one_step(
  launch, train_server, whole_run, tmp_path
):
  run = tmp_path / 'run'
  (first, log), (second, other_log) = launch.start_two(run, TRAIN_STEPS=1000000)
  wait_for_step(run, [log, other_log])
  os.kill(second, signal.SIGTERM)
  for pid, output in ((first, log), (second, other_log)):
    assert train_server.wait(pid) == 0, output.read_text()
    assert 'Stopped early' in output.read_text()
  (step,) = checkpoints_lib.steps_in(run / 'stage1')
  launch.one(run, TRAIN_STEPS=step + 2, ACCEPT_CHANGES=True)
  both = min(STEPS, step + 2)
  np.testing.assert_allclose(
    losses(run)[:both], whole_run[0][:both], rtol=0, atol=1e-5
  )


@pytest.mark.parametrize('victim', [0, 1])
def test_a_dead_process_ends_the_other(launch, train_server, tmp_path, victim):
  run = tmp_path / 'run'
  started = launch.start_two(
    run, [['--heartbeat_timeout=10']] * 2, TRAIN_STEPS=1000000, SAVE_PERIOD=2
  )
  wait_for_step(run, [log for _, log in started], step=5)
  os.kill(started[victim][0], signal.SIGKILL)
  killed = time.monotonic()
  survivor, log = started[1 - victim]
  status = train_server.wait(survivor, timeout=60)
  assert status != 0, log.read_text()
  # The time-out, and what two busy cores take to notice.
  assert time.monotonic() - killed < 45
  (step, *_) = checkpoints_lib.steps_in(run / 'stage1')
  launch.one(run, TRAIN_STEPS=step + 20, ACCEPT_CHANGES=True)


def test_an_error_of_one_ends_the_other(
  launch, train_server, prepared_folder, tmp_path
):
  """As where one host lacks the data."""
  folder = tmp_path / prepared_folder.name
  folder.mkdir()
  shutil.copy(prepared_folder / 'vocabulary.model', folder)
  flags = [['--heartbeat_timeout=10'] for _ in range(2)]
  flags[1].append(f'--gin.sources.NpzSource.folder={str(folder)!r}')
  (first, first_log), (second, second_log) = launch.start_two(
    tmp_path / 'run', flags
  )
  assert train_server.wait(second, timeout=120) == 1, second_log.read_text()
  assert f'Cannot read {folder}/train.npz' in second_log.read_text()
  assert train_server.wait(first, timeout=60) != 0, first_log.read_text()


def test_a_process_that_never_comes(launch, train_server, tmp_path):
  began = time.monotonic()
  ((pid, log),) = launch.start_two(
    tmp_path / 'run', [['--initialization_timeout=3']], count=1
  )
  assert train_server.wait(pid, timeout=60) != 0
  assert time.monotonic() - began < 45
  assert 'Waiting up to 3 s for 2 processes to meet' in log.read_text()
  assert not (tmp_path / 'run').exists()


def test_processes_with_different_disks(launch, train_server, tmp_path):
  own = [tmp_path / 'disk0', tmp_path / 'disk1']
  started = launch.start_two(
    'unused', [[f'--gin.MODEL_DIR={str(folder)!r}'] for folder in own]
  )
  for pid, log in started:
    assert train_server.wait(pid, timeout=120) == 1, log.read_text()
    assert 'not the same folder on all processes: [1] of 2' in log.read_text()
  assert not any(path for folder in own for path in folder.iterdir())


def test_processes_with_different_commands(launch, train_server, tmp_path):
  started = launch.start_two(
    tmp_path / 'run', [['--gin.SEED=0'], ['--gin.SEED=1']]
  )
  for pid, log in started:
    assert train_server.wait(pid, timeout=120) == 1
    assert 'The processes disagree about the settings' in log.read_text()
  assert not (tmp_path / 'run' / 'stage1').exists()
