"""The recipe with the real model at toy size, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import frozen, reader_files
from btr_jax.models import model as model_lib
from btr_jax.tools import prepare_batches
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import loop as loop_lib
from btr_jax.training import (
  optimizers,
  runner,
  settings,
  sources,
  start,
)
from btr_jax.training import recipe as recipe_lib

READER = config_lib.ReaderConfig(
  vocab_size=228,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=16,
  num_encoder_layers=2,
  num_decoder_layers=1,
  split_layer=1,
  dropout_rate=0.1,
  codec=config_lib.CodecConfig('residual', 8),
)
RECIPE = recipe_lib.Recipe(
  train_steps=(4, 3, 3),
  learning_rate=1e-3,
  warmup_steps=1,
  batch_size=4,
  codec_fit_batches=2,
)


pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture
def arguments(prepared_folder, toy_limits, tmp_path):
  """Arguments of runner.train for a run of seconds on one device."""
  return {
    'stage': 1,
    'model_dir': str(tmp_path / 'run'),
    'reader': READER,
    'limits': toy_limits,
    'data': sources.NpzSource(str(prepared_folder)),
    'recipe': RECIPE,
    'optimizer': optimizers.OptimizerConfig(),
    'log_period': 1,
    'eval_period': 0,
    'eval_batches': 0,
    'save_period': 2,
    'tensorboard': False,
  }


def same(left, right):
  flat_left, flat_right = map(_flat, (left, right))
  assert flat_left.keys() == flat_right.keys()
  for name, value in flat_left.items():
    np.testing.assert_array_equal(value, flat_right[name], err_msg=name)


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix: np.asarray(tree)}
  return {
    name: leaf
    for key, value in tree.items()
    for name, leaf in _flat(value, f'{prefix}/{key}').items()
  }


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  return {x['step']: x['train/loss'] for x in lines if 'train/loss' in x}


@pytest.mark.slow
def test_three_stages(arguments, tmp_path):
  run = tmp_path / 'run'
  assert runner.train(**arguments)
  assert runner.train(**{**arguments, 'stage': 2, 'eval_batches': 1})
  assert runner.train(**{**arguments, 'stage': 3})

  for name, steps, mode in (
    ('stage1', 4, 'joint'),
    ('stage2', 3, 'decomposed'),
    ('stage3_residual', 3, 'binary'),
  ):
    assert checkpoints_lib.steps_in(run / name)[-1] == steps
    assert sorted(losses(run / name)) == list(range(1, steps + 1))
    reader = reader_files.load_reader(run / name / 'reader', mode=mode)
    assert reader.config == READER
    params, _ = checkpoints_lib.load_params(run / name)
    same(jax.tree.map(np.asarray, dict(reader.params)), params)
  lines = (run / 'stage2' / 'metrics.jsonl').read_text()
  assert 'train/distill_loss' in lines and 'eval/em' in lines
  lines = (run / 'stage3_residual' / 'metrics.jsonl').read_text()
  assert 'train/recovery_loss' in lines

  # The teacher is stage 1's result, and stays it.
  tree = checkpoints_lib.ocp.PyTreeCheckpointHandler().metadata(
    run / 'stage2' / 'checkpoint_3' / 'state'
  )
  assert 'teacher' in dict(getattr(tree, 'tree', tree))['flax_mutables']

  # Everything is done: all stages in one command change nothing.
  before = (run / 'stage1' / 'metrics.jsonl').read_bytes()
  assert runner.train(**{**arguments, 'stage': 'all'})
  assert (run / 'stage1' / 'metrics.jsonl').read_bytes() == before

  # A reader directory serves as the start in place of a stage folder.
  params, source = start.initial_params(run / 'stage1' / 'reader', 2)
  same(params, checkpoints_lib.load_params(run / 'stage1')[0])
  assert source.endswith('stage1/reader')


@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_stage_1_teaches_wherever_stage_2_starts(arguments, tmp_path):
  """INITIAL_CHECKPOINT moves the student's start, not the teacher."""
  assert runner.train(**arguments)
  other = {**arguments, 'model_dir': str(tmp_path / 'other')}
  recipe = dataclasses.replace(RECIPE, seed=5)
  assert runner.train(**{**other, 'recipe': recipe})
  assert runner.train(
    **{
      **arguments,
      'stage': 2,
      'initial_checkpoint': str(tmp_path / 'other' / 'stage1'),
    }
  )
  folder = tmp_path / 'run' / 'stage2'
  step = checkpoints_lib.steps_in(folder)[-1]
  restored = checkpoints_lib.ocp.PyTreeCheckpointer().restore(
    folder.absolute() / f'checkpoint_{step}' / 'state'
  )
  taught_by, _ = checkpoints_lib.load_params(tmp_path / 'run' / 'stage1')
  same(restored['flax_mutables']['teacher'], taught_by)


@pytest.fixture
def with_codes(prepared_folder, toy_limits, drawn_quickly, tmp_path):
  """A binary reader on disk, and batches that hold its codes."""
  model = model_lib.BtrModel(READER, toy_limits, stage=3)
  path = tmp_path / 'reader'
  reader_files.save_reader(
    path,
    READER,
    toy_limits,
    drawn_quickly(model, 0),
    prepared_folder / reader_files.VOCABULARY_FILE,
  )
  reader = reader_files.load_reader(path, mode='binary')
  folder = tmp_path / 'arrays'
  shutil.copytree(prepared_folder, folder)
  for split in ('train', 'validation'):
    with np.load(folder / f'{split}.npz') as arrays:
      arrays = dict(arrays)
    codes = prepare_batches.codes(reader, arrays['passage_tokens'])
    np.savez(folder / f'{split}.npz', **arrays, **codes)
  (folder / sources.CODES_FILE).write_text(
    json.dumps({'fingerprint': reader.fingerprint})
  )
  return reader, sources.NpzSource(str(folder))


@pytest.mark.slow
def test_above_the_split_from_codes(arguments, with_codes, tmp_path):
  """Upper layers learn from stored codes; what made these stays as it is."""
  reader, data = with_codes
  arguments |= {
    'stage': 3,
    'data': data,
    'recipe': dataclasses.replace(RECIPE, train_lower=False),
    'initial_checkpoint': str(reader.path),
  }
  assert runner.train(**arguments)
  folder = tmp_path / 'run' / 'stage3_residual'
  found = reader_files.load_reader(folder / 'reader', mode='binary')
  assert found.fingerprint == reader.fingerprint  # Caches stay valid.
  stays = frozen.below_split(found.params, READER.split_layer)
  moved = {
    name
    for name, leaf in model_lib.flat_params(found.params).items()
    if not np.array_equal(leaf, model_lib.flat_params(reader.params)[name])
  }
  expected = {
    name for name, below in model_lib.flat_params(stays).items() if not below
  }
  assert moved == expected
  assert 'recovery_loss' not in (folder / 'metrics.jsonl').read_text()


def test_adapters_learn_from_codes_and_are_exported_as_a_reader(
  arguments, with_codes, tmp_path
):
  """What is exported is whole; what caches depend on stays; a stopped run
  goes on from its adapters."""
  reader, data = with_codes
  arguments |= {
    'stage': 3,
    'data': data,
    'recipe': dataclasses.replace(RECIPE, adapter_rank=2, train_lower=False),
    'initial_checkpoint': str(reader.path),
  }
  assert runner.train(**arguments)
  folder = tmp_path / 'run' / 'stage3_residual'
  found = reader_files.load_reader(folder / 'reader', mode='binary')
  assert found.fingerprint == reader.fingerprint
  before = model_lib.flat_params(reader.params)
  for name, leaf in model_lib.flat_params(found.params).items():
    adapted = name.endswith('/kernel') and not frozen.is_below_split(
      name, READER.split_layer
    )
    assert np.array_equal(leaf, before[name]) != adapted, name
    if adapted:
      change = np.asarray(leaf, np.float64) - np.asarray(before[name])
      assert np.linalg.matrix_rank(change, tol=1e-5) <= 2
  assert checkpoints_lib.steps_in(folder)


def test_codes_of_another_reader_are_refused(arguments, with_codes):
  reader, data = with_codes
  arguments |= {'stage': 3, 'initial_checkpoint': str(reader.path)}
  path = pathlib.Path(data.folder) / sources.CODES_FILE
  path.write_text(json.dumps({'fingerprint': 64 * '0'}))
  with pytest.raises(ValueError, match='fingerprint .* INITIAL_CHECKPOINT'):
    runner.train(**{**arguments, 'data': data})


class StopAt(loop_lib.StopSignal):
  """Asks for a stop the n-th time the loop looks."""

  def __init__(self, looks):
    super().__init__()
    self._left = looks

  def is_set(self):
    self._left -= 1
    return self._left < 0


@pytest.mark.slow
def test_real_model_resumes_bit_for_bit(arguments, tmp_path):
  # Dropout is on: its key depends on seed and step alone.
  assert runner.train(**arguments)
  arguments['model_dir'] = str(tmp_path / 'parts')
  assert not runner.train(**arguments, stop=StopAt(3))
  parts = tmp_path / 'parts' / 'stage1'
  assert checkpoints_lib.steps_in(parts)[-1] < 4
  assert not (parts / 'reader').exists()
  assert runner.train(**arguments)
  whole = tmp_path / 'run' / 'stage1'
  same(
    checkpoints_lib.load_params(whole)[0], checkpoints_lib.load_params(parts)[0]
  )
  assert losses(whole)[4] == losses(parts)[4]
  # As if it had been killed while it wrote the reader.
  (parts / 'reader' / reader_files.READER_FILE).unlink()
  assert runner.train(**arguments)
  same(
    reader_files.load_reader(parts / 'reader').params,
    reader_files.load_reader(whole / 'reader').params,
  )


def test_unknown_stage(arguments):
  for stage in (0, 4, '1', 'two', True, None):
    with pytest.raises(ValueError, match='STAGE is .*; expected 1 .*2 .*3'):
      runner.train(**{**arguments, 'stage': stage})


def test_missing_stage_before(arguments, tmp_path):
  for stage, folder in ((2, 'stage1'), (3, 'stage2')):
    with pytest.raises(
      checkpoints_lib.CheckpointError, match=f'{folder} has none. Run --gin'
    ):
      runner.train(**{**arguments, 'stage': stage})
  # Nothing half-made is left behind.
  assert [p.name for p in (tmp_path / 'run').iterdir()] == []


def test_missing_initial_checkpoint(arguments, tmp_path):
  with pytest.raises(
    checkpoints_lib.CheckpointError, match='INITIAL_CHECKPOINT is .*nowhere'
  ):
    runner.train(**arguments, initial_checkpoint=str(tmp_path / 'nowhere'))


def test_small_vocab_size(arguments):
  arguments['reader'] = dataclasses.replace(READER, vocab_size=128)
  with pytest.raises(
    ValueError, match='VOCAB_SIZE is 128, but .* 228 ids .*VOCAB_SIZE=228'
  ):
    runner.train(**arguments)


def test_batch_that_does_not_divide(arguments):
  devices = len(jax.devices())
  if devices == 1:
    pytest.skip('needs several devices; tests/conftest.py makes them on CPU')
  arguments['recipe'] = dataclasses.replace(RECIPE, batch_size=devices + 1)
  with pytest.raises(ValueError, match=f'BATCH_SIZE is {devices + 1}'):
    runner.train(**arguments)


def test_empty_model_dir(arguments):
  with pytest.raises(ValueError, match="MODEL_DIR is ''"):
    runner.train(**{**arguments, 'model_dir': ''})


def test_buckets_must_be_mounted(arguments):
  # pathlib would make a local folder named 'gs:' of it, one on each host.
  with pytest.raises(ValueError, match='MODEL_DIR is .gs://.* all hosts mount'):
    runner.train(**{**arguments, 'model_dir': 'gs://bucket/run'})


def test_mesh_that_does_not_divide_the_heads(arguments, tmp_path):
  if len(jax.devices()) != 4:
    pytest.skip('needs four devices; tests/conftest.py makes them on CPU')
  with pytest.raises(ValueError, match='MESH has 4 devices along model.*=2'):
    runner.train(**{**arguments, 'mesh': (1, 4)})
  assert list((tmp_path / 'run').iterdir()) == []


SETTINGS = {'stage': 1, 'reader': {'embed_dim': 8}, 'recipe': {'seed': 0}}


def test_settings_of_another_run(tmp_path):
  settings.check_settings(tmp_path, SETTINGS, False)
  settings.check_settings(tmp_path, SETTINGS, False)
  other = {**SETTINGS, 'recipe': {'seed': 1}}
  with pytest.raises(ValueError) as error:
    settings.check_settings(tmp_path, other, False)
  assert 'recipe.seed: found 0, now 1' in str(error.value)
  assert 'ACCEPT_CHANGES=True' in str(error.value)
  settings.check_settings(tmp_path, other, True)
  settings.check_settings(tmp_path, other, False)  # It is this run's now.


def test_other_architecture_is_never_accepted(tmp_path):
  settings.check_settings(tmp_path, SETTINGS, False)
  other = {**SETTINGS, 'reader': {'embed_dim': 16, 'num_heads': 2}}
  with pytest.raises(ValueError) as error:
    settings.check_settings(tmp_path, other, True)
  assert 'reader.embed_dim: found 8, now 16' in str(error.value)
  assert "reader.num_heads: found '(absent)', now 2" in str(error.value)
  assert 'ACCEPT_CHANGES' not in str(error.value)


def test_settings_file_damaged_or_gone(tmp_path):
  settings.check_settings(tmp_path, SETTINGS, False)
  (tmp_path / settings.SETTINGS_FILE).write_text('{"stage"')
  with pytest.raises(ValueError, match='Cannot read .*settings.json'):
    settings.check_settings(tmp_path, SETTINGS, False)
  (tmp_path / settings.SETTINGS_FILE).unlink()
  (tmp_path / 'checkpoint_5').mkdir()
  with pytest.raises(ValueError, match='checkpoints but no settings.json'):
    settings.check_settings(tmp_path, SETTINGS, False)


def test_stage_folders():
  names = [start.stage_name(stage, READER) for stage in (1, 2, 3)]
  assert names == ['stage1', 'stage2', 'stage3_residual']


def test_values_by_stage():
  values = [RECIPE.settings(stage) for stage in (1, 2, 3)]
  assert [v['train_steps'] for v in values] == [4, 3, 3]
  assert [v['learning_rate'] for v in values] == [1e-3] * 3
  with pytest.raises(ValueError, match='TRAIN_STEPS is .*; expected one value'):
    dataclasses.replace(RECIPE, train_steps=(1, 2)).settings(1)


def test_switches_of_ablations_are_told_where_they_are_set():
  """Runs of before they were there go on: their settings are the same."""
  names = {'recovery_weight', 'binarizer', 'anneal_beta'}
  assert not names & set(RECIPE.settings(3)) and RECIPE.annealing(3) is None
  recipe = dataclasses.replace(RECIPE, binarizer='annealed', anneal_beta=9.0)
  assert names & set(recipe.settings(3)) == {'binarizer', 'anneal_beta'}
  assert recipe.annealing(3) == config_lib.AnnealingConfig(3, 9.0)
  with pytest.raises(ValueError, match="BINARIZER is 'soft'; expected one of"):
    dataclasses.replace(RECIPE, binarizer='soft').annealing(3)


def test_state_builds_on_a_square_mesh(square_mesh, toy_limits):
  """Shardings of the real tree: wide sides over `model`."""
  from btr_jax.models import model as model_lib
  from btr_jax.training import state as state_lib

  model = model_lib.BtrModel(READER, toy_limits, stage=2)
  transform = optimizers.make_optimizer(
    optimizers.OptimizerConfig(), lambda step: 1e-3
  )
  abstract = state_lib.abstract_state(model, transform, square_mesh)
  flat = state_lib.flatten(abstract.params)
  spec = flat['encoder/layers_0/mlp/wi_0/kernel'].sharding.spec
  assert spec == jax.sharding.PartitionSpec(None, 'model')
  assert flat['token_embedder/embedding'].sharding.spec[0] == 'model'
  assert set(abstract.mutables) == {'teacher'}


def test_a_codec_of_other_levels_is_fitted_anew(tiny_family, tmp_path):
  """Its parameters have the same shapes, and mean something else."""
  path = str(tiny_family / 'residual')
  config = reader_files.load_reader(path).config

  def start_of(codec):
    wanted = dataclasses.replace(config, codec=codec)
    return start.previous_params(tmp_path, 3, wanted, path)[0]

  directions = config.embed_dim
  assert 'codec' in start_of(config.codec)
  two_bits = config_lib.CodecConfig('residual', 2 * directions, bits_per_dim=2)
  assert 'codec' not in start_of(two_bits)
  assert 'codec' not in start_of(config_lib.CodecConfig('calibrated'))
