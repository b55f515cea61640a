"""Killed twenty times: the newest checkpoint is whole every time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from btr_jax import train
from btr_jax.models import model as model_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import optimizers, partitioning
from btr_jax.training import state as state_lib

KILLS = 20


@pytest.fixture
def abstract(spread_gin, one_device_mesh):
  """The abstract state of the run that is killed."""
  train.parse_config([str(spread_gin)])
  given = train.build_arguments('reader', 'limits', 'optimizer')
  model = model_lib.BtrModel(given['reader'], given['limits'], stage=1)
  transform = optimizers.make_optimizer(given['optimizer'], lambda step: 1e-3)
  return state_lib.abstract_state(model, transform, one_device_mesh)


def newest(folder):
  return max(checkpoints_lib.steps_in(folder), default=0)


def restored(folder, abstract, scratch):
  """Restores the newest checkpoint of a copy: the next run finds the mess."""
  copy = scratch / 'copy'
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(folder, copy)
  with checkpoints_lib.Checkpoints(copy) as checkpoints:
    return checkpoints.restore(abstract)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_keeps_its_last_good_checkpoint(
  train_server, spread_gin, abstract, tmp_path
):
  folder = tmp_path / 'run' / 'stage1'

  def argv(run, **macros):
    macros = {'MODEL_DIR': str(tmp_path / run), 'KEEP': 2, **macros}
    return [
      f'--gin_file={spread_gin}',
      *(f'--gin.{name}={value!r}' for name, value in macros.items()),
    ]

  endless = argv('run', TRAIN_STEPS=1000000, SAVE_PERIOD=1)
  moments, before, in_a_save = random.Random(0), 0, 0
  for kill in range(KILLS):
    pid, output = train_server.start(endless)
    began = time.monotonic()
    if kill % 2 == 0:  # Every other one among its saves.
      while newest(folder) <= before:
        assert time.monotonic() - began < 120, output.read_text()
        time.sleep(0.01)
      time.sleep(moments.uniform(0.0, 0.6))
    else:  # The others anywhere: importing, restoring, compiling, saving.
      time.sleep(moments.uniform(0.0, 3.0))
    os.kill(pid, signal.SIGKILL)
    assert train_server.wait(pid) == -signal.SIGKILL, output.read_text()
    step = newest(folder)
    assert step >= before
    before = step
    if not step:
      continue  # Killed before it ever saved.
    in_a_save += any('tmp' in path.name for path in folder.iterdir())
    state = restored(folder, abstract, tmp_path)
    assert int(state.step) == step
    assert all(
      np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)
    )
  print(f'{in_a_save} of {KILLS} kills left half a save, {before} steps saved')
  assert in_a_save > 0
  # Nothing of the deaths is left in the result: bit for bit the run that was
  # never killed.
  pid, output = train_server.start(argv('whole', TRAIN_STEPS=before))
  assert train_server.wait(pid) == 0, output.read_text()
  whole = restored(tmp_path / 'whole' / 'stage1', abstract, tmp_path)
  state = restored(folder, abstract, tmp_path)
  # Every other kill waited for a step; how many more there are, time decides.
  assert int(state.step) == int(whole.step) == before >= KILLS // 2
  for name, leaf in state_lib.flatten(state.params).items():
    np.testing.assert_array_equal(
      partitioning.to_host(leaf), state_lib.flatten(whole.params)[name]
    )
