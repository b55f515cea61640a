"""What T5X's gin files bind, without T5X: choices, folders, batches, axes."""

from __future__ import annotations

import dataclasses
import itertools
import types
import warnings

from flax import serialization, traverse_util
import jax
import numpy as np
import pytest

from btr_jax.gin_configs import programs
from btr_jax.interop import t5x as adapter
from btr_jax.interop import t5x_data, t5x_training
from btr_jax.models import model as model_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import optimizers, sources
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import state as state_lib

RECIPE = recipe_lib.Recipe(
  train_steps=(30, 20, 10), learning_rate=1e-3, warmup_steps=2, batch_size=4
)


@pytest.mark.parametrize(
  'main, file',
  [
    ('t5x.train', 'runs/t5x/train.gin'),
    ('t5x.eval', 'runs/t5x/eval.gin'),
    ('t5x.infer', 'runs/t5x/infer.gin'),
    ('btr_jax.train', 'runs/own/train.gin'),
    ('pytest', 'runs/own/train.gin'),
  ],
)
@pytest.mark.parametrize('by_module', [True, False])
def test_the_program_chooses_the_run_file(main, file, by_module, monkeypatch):
  module = types.ModuleType('__main__')
  if by_module:  # python -m t5x.train
    module.__spec__ = types.SimpleNamespace(name=main)
  else:  # python somewhere/t5x/train.py
    module.__spec__ = None
    module.__file__ = f'/somewhere/{main.replace(".", "/")}.py'
  monkeypatch.setitem(programs.sys.modules, '__main__', module)
  assert programs.run_file('runs/<program>.gin') == file


def test_stage_folders_are_those_of_our_trainer(tiny_config, tmp_path):
  for stage, name in ((1, 'stage1'), (2, 'stage2'), (3, 'stage3_residual')):
    found = adapter.stage_folder(str(tmp_path), stage, tiny_config)
    assert found == str(tmp_path / name)


@pytest.mark.parametrize(
  'model_dir, stage, message',
  [
    ('', 1, "MODEL_DIR is ''; expected the folder"),
    ('gs://bucket/run', 1, 'expected a folder on a file system'),
    ('runs/x', 'all', "STAGE is 'all'; T5X runs one stage at a time"),
    ('runs/x', 4, 'STAGE is 4; expected 1'),
  ],
)
def test_bad_folders(model_dir, stage, message, tiny_config):
  with pytest.raises(ValueError, match=message):
    adapter.stage_folder(model_dir, stage, tiny_config)


def test_annealing_needs_our_trainer(tiny_config, tiny_limits):
  recipe = dataclasses.replace(RECIPE, binarizer='annealed')
  with pytest.raises(ValueError, match="BINARIZER is 'annealed'; T5X tells"):
    adapter.model(
      tiny_config, tiny_limits, sources.SeqioSource('any'), 3, recipe
    )


def test_newest_checkpoint(tmp_path):
  with pytest.raises(checkpoints_lib.CheckpointError, match='Train that stage'):
    adapter.newest_checkpoint(str(tmp_path))
  for step in (5, 10):
    (tmp_path / f'checkpoint_{step}').mkdir()
  assert adapter.newest_checkpoint(str(tmp_path)).endswith('/checkpoint_10')


@pytest.mark.parametrize('stage, mode', model_lib.STAGE_MODES.items())
def test_only_a_checkpoint_of_the_model_is_answered_with(
  stage, mode, tiny_config, tiny_limits, tmp_path
):
  """T5X would take a shallower model's share of the layers, and answer."""

  def answering(**changes):
    reader = dataclasses.replace(tiny_config, **changes)
    return model_lib.BtrModel(reader, tiny_limits, stage=1, mode=mode)

  trained = model_lib.BtrModel(tiny_config, tiny_limits, stage=stage)
  shapes = state_lib.abstract_variables(trained)['params']
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  state = state_lib.TrainState(np.int32(3), zeros, {}, {})
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state, wait=True)
  path = str(tmp_path / 'checkpoint_3')
  assert adapter.fitting_checkpoint(path, answering()) == path
  for changes, message in (
    ({'num_decoder_layers': 1}, 'decoder/layers_1/.*not expected'),
    ({'num_encoder_layers': 4}, 'encoder/layers_3/.*missing'),
    (
      {'mlp_dim': 64},
      r'wi_0/kernel: found .*\(32, 48\).*expected .*\(32, 64\)',
    ),
  ):
    with pytest.raises(checkpoints_lib.CheckpointError, match=message):
      adapter.fitting_checkpoint(path, answering(**changes))
  # What is no checkpoint by Orbax is T5X's to read or to refuse.
  assert adapter.fitting_checkpoint('/somewhere', answering()) == '/somewhere'


def test_batches_per_evaluation(source):
  assert t5x_data.eval_steps(3, 5, source) == 3
  assert t5x_data.eval_steps(None, 5, source) == 3  # Twelve questions.


def test_only_seqio_sources():
  with pytest.raises(ValueError, match='T5X reads SeqIO tasks'):
    adapter.check_source(sources.NpzSource('somewhere'))


@pytest.mark.parametrize(
  'every, stage, expected', [(7, 1, 7), (0, 1, 30), (100, 2, 20), (10, 3, 10)]
)
def test_period(every, stage, expected):
  assert t5x_training.period(every, RECIPE, stage) == expected


def test_evaluation_can_be_off():
  assert t5x_data.eval_dataset(0, 'dataset') is None
  assert t5x_data.eval_dataset(None, 'dataset') == 'dataset'
  assert t5x_data.eval_examples(3, 4) == 12
  assert t5x_data.eval_examples(None, 4) is None


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_axes_of_the_optimizer_state(name):
  """Moments as their parameters; counts and Adafactor's factors replicated."""
  params = {
    'layer': {
      'kernel': np.zeros((128, 256), np.float32),
      'scale': np.zeros(128, np.float32),
    },
    'other': {'scale': np.zeros(64, np.float32)},
  }
  axes = {
    'layer': {'kernel': ('embed', 'mlp'), 'scale': ('embed',)},
    'other': {'scale': ('mlp',)},
  }
  config = optimizers.OptimizerConfig(name=name)
  state = optimizers.make_optimizer(config, lambda step: 1e-3).init(params)
  state = serialization.to_state_dict(state)
  found = traverse_util.flatten_dict(
    t5x_training.state_axes(state, params, axes)
  )
  spread = {path[-3:]: axis for path, axis in found.items() if axis is not None}
  scales = {('layer', 'scale'): ('embed',), ('other', 'scale'): ('mlp',)}
  kernel = {('layer', 'kernel'): ('embed', 'mlp')}
  if name == 'adamw':
    moments = {'mu': scales | kernel, 'nu': scales | kernel}
  elif name == 'muon':  # It keeps no second moment of a matrix.
    moments = {'mu': scales | kernel, 'nu': scales}
  else:  # The matrix is factored; its factors have another shape.
    moments = {'v': scales}
  assert spread == {
    (moment, *path): axis
    for moment, of_params in moments.items()
    for path, axis in of_params.items()
  }
  assert any(path[-1] == 'count' for path in found)


@pytest.fixture
def source(tmp_path, tiny_records, tiny_vocabulary_file, monkeypatch):
  """The toy task, registered as TASK_MODULE would."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    seqio = pytest.importorskip('seqio')
  from btr_jax.data import records

  for split in ('train', 'validation', 'test'):
    records.write_records(tmp_path / f'{split}.jsonl', tiny_records)
  vocabulary = tmp_path / 'vocabulary.model'
  vocabulary.write_bytes(tiny_vocabulary_file.read_bytes())
  monkeypatch.setenv('T5X_TOY_FOLDER', str(tmp_path))
  monkeypatch.syspath_prepend(__file__.rpartition('/')[0])
  monkeypatch.delitem(programs.sys.modules, 't5x_toy_task', raising=False)
  yield sources.SeqioSource('t5x_toy', 't5x_toy_task')
  seqio.TaskRegistry.remove('t5x_toy')


def test_batches_are_those_of_our_trainer_and_go_on(
  source, tiny_limits, tmp_path
):
  from btr_jax.data import feature_converters

  def iterator(stage):
    cfg = types.SimpleNamespace(
      split='train',
      batch_size=4,
      pack=False,
      task_feature_lengths=adapter.feature_lengths(tiny_limits),
    )
    return t5x_data.get_dataset(
      cfg,
      1,
      2,
      feature_converters.BtrFeatureConverter,
      limits=tiny_limits,
      data=source,
      recipe=RECIPE,
      stage=stage,
      folder=str(tmp_path / 'run'),
    )

  def expected(stage, start):
    batches = source.batches(
      'train',
      tiny_limits,
      4,
      seed=RECIPE.data_seed(stage),
      start_step=start,
      shard_index=1,
      num_shards=2,
    )
    return list(itertools.islice(batches, 4))

  found = iterator(2)
  for wanted in expected(2, 0):  # Four steps, over the end of an epoch.
    batch = next(found)
    for name, array in wanted.items():
      np.testing.assert_array_equal(batch[name], array)
      assert found.element_spec[name].shape == array.shape
      assert found.element_spec[name].dtype == array.dtype
  found.reset()
  first = next(found)['question_tokens']
  np.testing.assert_array_equal(first, expected(2, 0)[0]['question_tokens'])
  assert (first != expected(3, 0)[0]['question_tokens']).any()
  (tmp_path / 'run' / 'checkpoint_2').mkdir(parents=True)
  resumed = next(iterator(2))
  for name, array in expected(2, 2)[0].items():
    np.testing.assert_array_equal(resumed[name], array)


def test_model_for_answers_carries_no_teacher(source, tiny_config, tiny_limits):
  arguments = tiny_config, tiny_limits, source, 2
  answering = adapter.model(*arguments)
  training = adapter.model(*arguments, recipe=RECIPE, optimizer_def='given')
  assert (answering.stage, answering.mode) == (1, 'decomposed')
  assert (training.stage, training.mode) == (2, 'decomposed')
  assert training.optimizer_def == 'given'
  features = source.seqio_task().output_features
  assert training.input_vocabulary == features['inputs'].vocabulary
  assert training.output_vocabulary == features['targets'].vocabulary


def test_model_refuses_a_vocabulary_that_does_not_fit(
  source, tiny_config, tiny_limits
):
  small = dataclasses.replace(tiny_config, vocab_size=8)
  with pytest.raises(ValueError, match='VOCAB_SIZE is 8, but the vocabulary'):
    adapter.model(small, tiny_limits, source, 1)
