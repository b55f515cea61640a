"""T5X's own programs drive our model, and both trainers are one."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = [
  pytest.mark.t5x,
  pytest.mark.slow,
  # The first test trains all stages with both trainers, in programs.
  pytest.mark.timeout(1800),
  pytest.mark.skipif(
    importlib.util.find_spec('t5x') is None, reason='T5X is not on PyPI'
  ),
]

STEPS = 10
FOLDERS = {1: 'stage1', 2: 'stage2', 3: 'stage3_residual'}

_READ_LOSSES = """
import json, sys
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util
events = event_accumulator.EventAccumulator(
  sys.argv[1], size_guidance={'tensors': 0}
)
events.Reload()
print(json.dumps({
  event.step: float(tensor_util.make_ndarray(event.tensor_proto))
  for event in events.Tensors('loss')
}))
"""


class Toy:
  """Starts programs on a toy task, from the root file that users name."""

  def __init__(self, folder, repository):
    self.folder = folder
    self._repository = repository

  def python(self, *arguments, devices=1):
    # In front of the rest, for T5X itself may stand on PYTHONPATH.
    path = [str(pathlib.Path(__file__).parent), os.environ.get('PYTHONPATH')]
    environment = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(filter(None, path)),
      'T5X_TOY_FOLDER': str(self.folder),
    }
    environment['XLA_FLAGS'] = (
      f'--xla_force_host_platform_device_count={devices}'
    )
    result = subprocess.run(
      [sys.executable, '-W', 'ignore', *arguments],
      env=environment,
      cwd=self._repository,
      capture_output=True,
      text=True,
      timeout=900,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return result

  def run(self, program, name, devices=1, **macros):
    flags = [f'--gin.{key}={value!r}' for key, value in macros.items()]
    return self.python(
      '-m',
      program,
      f'--gin_file={self.folder / "toy.gin"}',
      f"--gin.MODEL_DIR='{self.folder / name}'",
      *flags,
      devices=devices,
    )

  def t5x_losses(self, name, stage):
    summaries = self.folder / name / FOLDERS[stage] / 'train'
    output = self.python('-c', _READ_LOSSES, str(summaries)).stdout
    found = json.loads(output.splitlines()[-1])
    return [found[str(step)] for step in range(1, STEPS + 1)]

  def our_losses(self, name, stage):
    path = self.folder / name / FOLDERS[stage] / 'metrics.jsonl'
    lines = map(json.loads, path.read_text().splitlines())
    found = {x['step']: x['train/loss'] for x in lines if 'train/loss' in x}
    return [found[step] for step in range(1, STEPS + 1)]


@pytest.fixture(scope='module')
def toy(
  tmp_path_factory,
  repository,
  tiny_records,
  tiny_vocabulary_file,
  tiny_config,
  tiny_limits,
):
  """The tiny run, but smaller, with dropout, and on twelve questions."""
  from btr_jax.data import records

  folder = tmp_path_factory.mktemp('t5x')
  for split in ('train', 'validation', 'test'):
    records.write_records(folder / f'{split}.jsonl', tiny_records)
  (folder / 'vocabulary.model').write_bytes(tiny_vocabulary_file.read_bytes())
  lengths = '\n'.join(
    f'{name.upper()} = {value}' for name, value in tiny_limits.to_dict().items()
  )
  (folder / 'toy.gin').write_text(f"""
from __gin__ import dynamic_registration
from btr_jax import config
include 'gin_configs/btr_tiny.gin'
{lengths}
TASK = 't5x_toy'
TASK_MODULE = 't5x_toy_task'
VOCAB_SIZE = {tiny_config.vocab_size}
SPLIT_LAYER = 2
DROPOUT_RATE = 0.1
BATCH_SIZE = 4
TRAIN_STEPS = {STEPS}
LEARNING_RATE = 1e-3
WARMUP_STEPS = 2
LOG_PERIOD = 1
SAVE_PERIOD = 5
EVAL_BATCHES = 0
CODEC_FIT_BATCHES = 2
config.ReaderConfig:
  embed_dim = 32
  num_heads = 2
  head_dim = 16
  mlp_dim = 48
  num_encoder_layers = 3
  num_decoder_layers = 1
""")
  return Toy(folder, repository)


@pytest.fixture(scope='module')
def both(toy):
  """The three stages by both trainers, from one file, seed and order."""
  toy.run('btr_jax.train', 'ours', STAGE='all', TENSORBOARD=False)
  for stage in (1, 2, 3):
    toy.run('t5x.train', 'theirs', STAGE=stage, EVAL_BATCHES=1)
  return toy


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_ten_steps_have_the_same_losses(both, stage):
  ours = both.our_losses('ours', stage)
  assert both.t5x_losses('theirs', stage) == pytest.approx(ours, abs=1e-5)
  assert len(set(ours)) == STEPS


def test_goes_on_as_if_it_had_not_stopped(both):
  """The second half again, on four devices, from the middle of an epoch."""
  whole = both.t5x_losses('theirs', 2)
  folder = both.folder / 'theirs' / 'stage2'
  resumed = both.folder / 'resumed' / 'stage2'
  shutil.copytree(folder / 'checkpoint_5', resumed / 'checkpoint_5')
  both.run('t5x.train', 'resumed', STAGE=2, devices=4, MESH=(2, 2))
  output = both.python('-c', _READ_LOSSES, str(resumed / 'train')).stdout
  found = json.loads(output.splitlines()[-1])
  assert sorted(map(int, found)) == [6, 7, 8, 9, 10]
  again = [found[str(step)] for step in range(6, 11)]
  assert again == pytest.approx(whole[5:], abs=1e-5)


def test_microbatches_and_adafactor(toy):
  settings = {'STAGE': 1, 'MICROBATCHES': 2, 'OPTIMIZER': 'adafactor'}
  toy.run('btr_jax.train', 'ours_adafactor', TENSORBOARD=False, **settings)
  toy.run('t5x.train', 'theirs_adafactor', **settings)
  ours = toy.our_losses('ours_adafactor', 1)
  theirs = toy.t5x_losses('theirs_adafactor', 1)
  assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize('name, stage', [('ours', 3), ('theirs', 2)])
def test_eval_scores_checkpoints_of_both(both, name, stage):
  both.run('t5x.eval', name, STAGE=stage, NUM_EXAMPLES=4)
  folder = both.folder / name / FOLDERS[stage] / 'eval' / 'inference_eval'
  metrics = (folder / 't5x_toy-metrics.jsonl').read_text().splitlines()
  scores = json.loads(metrics[-1])
  assert scores['step'] == STEPS
  assert 0 <= scores['exact_match'] <= scores['f1'] <= 100


@pytest.mark.parametrize('name, stage', [('ours', 2), ('theirs', 3)])
def test_infer_answers_with_checkpoints_of_both(both, name, stage):
  both.run('t5x.infer', name, STAGE=stage, MODE='predict_with_aux')
  folder = both.folder / name / FOLDERS[stage] / 'infer'
  (path,) = folder.glob('t5x_toy-predict_with_aux.jsonl*-of-00001')
  answers = [json.loads(line) for line in path.read_text().splitlines()]
  assert [a['inputs']['id'] for a in answers] == [f'q{i}' for i in range(12)]
  assert all(isinstance(a['prediction'], str) for a in answers)
  assert all(a['aux']['scores'] < 0 for a in answers)


def test_t5x_model_dir_can_be_gone_on_with_by_our_trainer(both):
  """Stage 3 of ours from stage 2 of T5X's."""
  start = str(both.folder / 'theirs' / 'stage2')
  both.run(
    'btr_jax.train',
    'mixed',
    STAGE=3,
    INITIAL_CHECKPOINT=start,
    TENSORBOARD=False,
  )
  mixed = both.our_losses('mixed', 3)
  assert mixed == pytest.approx(both.our_losses('ours', 3), abs=1e-5)


def test_missing_value_is_named(toy):
  command = '-m', 't5x.train', '--gin_file=gin_configs/btr_base.gin'
  with pytest.raises(AssertionError, match='MODEL_DIR/macro.value set to'):
    toy.python(*command)


def test_start_from_another_size_is_refused(both):
  message = (
    r'do not fit the model(.|\n)*wi_0/kernel: found \(32, 48\), expected'
  )
  start = str(both.folder / 'ours' / 'stage1')
  with pytest.raises(AssertionError, match=message):
    both.run(
      't5x.train',
      'another',
      STAGE=2,
      INITIAL_CHECKPOINT=start,
      **{'config.ReaderConfig.mlp_dim': 64},
    )


def test_a_shallower_model_is_refused(both):
  """T5X alone would leave the third layer unread, and score the rest."""
  message = 'of another model(.|\n)*encoder/layers_2/.*: not expected'
  with pytest.raises(AssertionError, match=message):
    both.run(
      't5x.eval',
      'ours',
      STAGE=1,
      SPLIT_LAYER=1,
      **{'config.ReaderConfig.num_encoder_layers': 2},
    )


def test_stage_without_the_one_before_says_so(toy):
  message = 'Stage 2 starts from the last checkpoint of stage 1, but .*empty'
  with pytest.raises(AssertionError, match=message):
    toy.run('t5x.train', 'empty', STAGE=2)
