"""T5X's checkpoints with T5X itself: it writes, it reads, its logits."""

import pathlib

from flax import traverse_util
from flax.core import frozen_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.interop import names, t5x_checkpoints
from btr_jax.models import reader_files

t5x = pytest.importorskip('t5x', reason='T5X is not on PyPI')
pytestmark = [pytest.mark.t5x, pytest.mark.filterwarnings('ignore')]


@pytest.fixture(autouse=True)
def t5x_promotes_ranks():
  with jax.numpy_rank_promotion('allow'):
    yield


def _network(config):
  from t5x.examples.t5 import network

  return network.Transformer(
    network.T5Config(
      vocab_size=config.vocab_size,
      emb_dim=config.embed_dim,
      num_heads=config.num_heads,
      head_dim=config.head_dim,
      mlp_dim=config.mlp_dim,
      num_encoder_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      mlp_activations=config.mlp_activations,
      logits_via_embedding=config.logits_via_embedding,
      dropout_rate=0.0,
    )
  )


def _train_state(config, tensors, step):
  """What T5X saves and restores, around the given parameters."""
  from t5x import train_state

  ones = jnp.ones((1, 4), jnp.int32)
  axes = jax.eval_shape(
    lambda: _network(config).init(
      jax.random.key(0), ones, ones, ones, enable_dropout=False
    )
  )['params_axes']
  params = traverse_util.unflatten_dict(tensors, sep='/')
  return train_state.InferenceState(
    step=np.int32(step),
    params=frozen_dict.freeze(params),
    params_axes=frozen_dict.freeze(axes),
  )


def _partitioner():
  from t5x import partitioning

  return partitioning.PjitPartitioner(num_partitions=1)


def _inputs(config):
  generator = np.random.default_rng(0)
  question = generator.integers(2, config.vocab_size, (2, 5))
  passage = generator.integers(2, config.vocab_size, (2, 40))
  answer = generator.integers(2, config.vocab_size, (2, 6))
  return [np.asarray(x, np.int32) for x in (question, passage, answer)]


def _assert_logits_equal(folder, config, tensors):
  question, passage, answer = _inputs(config)
  theirs = _network(config).apply(
    {'params': traverse_util.unflatten_dict(tensors, sep='/')},
    jnp.concatenate([question, passage], axis=1),
    jnp.asarray(answer),
    jnp.ones_like(answer),
    enable_dropout=False,
  )
  reader = reader_files.load_reader(folder, mode='joint')
  ours, _ = reader.model.module.apply(
    {'params': reader.params},
    jnp.asarray(question),
    jnp.asarray(passage)[:, None],
    jnp.asarray(answer),
    'joint',
  )
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize('tied', [False, True])
def test_published_layout(
  tmp_path,
  tiny_config,
  random_tensors,
  converted,
  tiny_vocabulary_file,
  assert_same_bits,
  tied,
):
  """T5X saves as published checkpoints were; ours reads and computes."""
  import dataclasses

  from t5x import checkpoints

  config = dataclasses.replace(
    tiny_config, num_heads=4, head_dim=8, logits_via_embedding=tied
  )
  tensors = {n: 0.3 * v for n, v in random_tensors(config).items()}
  checkpoints.Checkpointer(
    _train_state(config, tensors, 7), _partitioner(), str(tmp_path / 'theirs')
  ).save(_train_state(config, tensors, 7))
  assert (tmp_path / 'theirs' / 'checkpoint_7' / 'checkpoint').is_file()
  found, step = t5x_checkpoints.read(tmp_path / 'theirs')
  assert step == 7
  assert_same_bits(found, tensors)
  flags = ('--vocabulary', tiny_vocabulary_file)
  converted(tmp_path / 'theirs', tmp_path / 'reader', *flags)
  _assert_logits_equal(tmp_path / 'reader', config, tensors)


def test_t5x_restores_what_is_written(
  tmp_path, tiny_config, random_tensors, assert_same_bits
):
  """And what T5X then writes by Orbax is read again."""
  import dataclasses

  from t5x import checkpoints

  config = dataclasses.replace(tiny_config, num_heads=4, head_dim=8)
  tensors = random_tensors(config)
  t5x_checkpoints.write(tmp_path / 'ours', tensors, 3)
  blank = {n: np.zeros_like(v) for n, v in tensors.items()}

  def manager(folder):
    return checkpoints.OrbaxCheckpointManagerInterface(
      str(tmp_path / folder), _train_state(config, blank, 0), _partitioner()
    )

  restored = manager('ours').restore(
    path=str(tmp_path / 'ours' / 'checkpoint_3')
  )
  assert int(restored.step) == 3
  flat = traverse_util.flatten_dict(
    frozen_dict.unfreeze(restored.params), sep='/'
  )
  assert_same_bits({n: np.asarray(v) for n, v in flat.items()}, tensors)

  (tmp_path / 'theirs').mkdir()  # T5X would write beside it otherwise.
  other = manager('theirs')
  other.save(restored)
  other.wait_until_finished()
  found, step = t5x_checkpoints.read(tmp_path / 'theirs')
  assert step == 3
  assert_same_bits(found, tensors)


def test_t5x_trains_from_what_is_written(
  tmp_path, tiny_config, random_tensors, assert_same_bits
):
  """With fallback_to_scratch, for the optimizer's states are not there."""
  import dataclasses

  from t5x import checkpoints, optimizers, train_state

  config = dataclasses.replace(tiny_config, num_heads=4, head_dim=8)
  tensors = random_tensors(config)
  t5x_checkpoints.write(tmp_path / 'ours', tensors, 3)
  inference = _train_state(
    config, {n: np.zeros_like(v) for n, v in tensors.items()}, 0
  )
  fresh = train_state.FlaxOptimTrainState.create(
    optimizers.adamw(learning_rate=1e-3),
    {'params': inference.params, 'params_axes': inference.params_axes},
  )
  restored = checkpoints.OrbaxCheckpointManagerInterface(
    str(tmp_path / 'ours'), fresh, _partitioner()
  ).restore(
    path=str(tmp_path / 'ours' / 'checkpoint_3'),
    fallback_state=fresh.state_dict(),
  )
  flat = traverse_util.flatten_dict(
    frozen_dict.unfreeze(restored.params), sep='/'
  )
  assert_same_bits({n: np.asarray(v) for n, v in flat.items()}, tensors)
  assert int(restored.step) == 3


def test_the_fixture_of_t5x(tmp_path, converted, tiny_vocabulary_file):
  """518,240 random parameters of T5 1.1 in one msgpack file."""
  from t5x import checkpoints

  path = (
    pathlib.Path(t5x.__file__).parent / 'testdata' / 'test_t5_tiny.checkpoint_0'
  )
  if not path.is_file():
    pytest.skip('this T5X has no testdata')
  flags = ('--vocabulary', tiny_vocabulary_file, '--from', 't5x')
  record = converted(path, tmp_path / 'reader', *flags)
  assert record['parameters'] == 518_240
  theirs = checkpoints.load_t5x_checkpoint(str(path))['target']
  config = reader_files.load_reader(tmp_path / 'reader').config
  tensors = traverse_util.flatten_dict(theirs, sep='/')
  assert set(tensors) == set(names.shapes(config))
  _assert_logits_equal(tmp_path / 'reader', config, tensors)
