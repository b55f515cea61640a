"""A reader small enough to run in milliseconds, and a batch for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import model as model_lib

LIMITS = config_lib.InputLimits(
  question_length=6, passage_length=10, answer_length=5, num_passages=3
)


def _small_config(codec='residual', **overrides):
  num_bits = overrides.pop('num_bits', None)
  scale_bits = overrides.pop('scale_bits', 16)
  bits_per_dim = overrides.pop('bits_per_dim', 1)
  window = overrides.pop('window', 0)
  wiring = overrides.pop('wiring', 'recovered')
  values = dict(
    vocab_size=48,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=3,
    num_decoder_layers=2,
    split_layer=2,
    dropout_rate=0.0,
    codec=config_lib.CodecConfig(
      codec, num_bits, scale_bits, bits_per_dim, window, wiring
    ),
  )
  return config_lib.ReaderConfig(**{**values, **overrides})


def _small_model(stage=3, codec='residual', limits=LIMITS, **overrides):
  options = {
    name: overrides.pop(name)
    for name in (
      'mode',
      'distill_tokens',
      'recovery_weight',
      'train_lower',
      'adapter_rank',
      'annealing',
    )
    if name in overrides
  }
  return model_lib.BtrModel(
    _small_config(codec, **overrides), limits, stage=stage, **options
  )


def _random_batch(batch_size=2, seed=0, limits=LIMITS, vocab_size=48):
  """Questions of unequal length, a short passage and a missing one."""
  rng = np.random.default_rng(seed)

  def tokens(*shape):
    return rng.integers(2, vocab_size, shape, dtype=np.int32)

  question = tokens(batch_size, limits.question_length)
  question[0, :2] = 0
  passages = tokens(batch_size, limits.num_passages, limits.passage_length)
  passages[0, 1, 6:] = 0
  passages[-1, -1] = 0
  targets = tokens(batch_size, limits.answer_length)
  targets[0, -2:] = 0
  inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  return {
    'question_tokens': jnp.asarray(question),
    'passage_tokens': jnp.asarray(passages),
    'decoder_input_tokens': jnp.asarray(inputs),
    'decoder_target_tokens': jnp.asarray(targets),
    'decoder_loss_weights': jnp.asarray((targets != 0).astype(np.float32)),
  }


def _drawn_params(model, seed=0, sharpness=1.0):
  """Parameters by NumPy, where JAX would compile for seconds."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params']

  def draw(path, leaf):
    name = path[-1].key
    values = rng.normal(size=leaf.shape).astype(np.float32)
    if name in ('scale', 'deviation', 'level'):
      return jnp.asarray(1.0 + 0.1 * np.tanh(values))  # Must be positive.
    if name == 'kernel':
      values /= np.sqrt(leaf.shape[0])
    if path[-2].key == 'logits_dense':
      values *= sharpness
    return jnp.asarray(values)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='session')
def drawn_params():
  """drawn_params(model, seed, sharpness of the logits) -> parameters."""
  return _drawn_params


@pytest.fixture(scope='session')
def small_config():
  """small_config(codec, **overrides) -> ReaderConfig."""
  return _small_config


@pytest.fixture(scope='session')
def small_model():
  """small_model(stage, codec, **overrides) -> BtrModel."""
  return _small_model


@pytest.fixture(scope='session')
def random_batch():
  """random_batch(batch_size, seed, limits, vocab_size) -> model features."""
  return _random_batch
