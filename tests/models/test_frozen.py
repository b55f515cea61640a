"""What training above the split leaves alone, and what it may read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import frozen
from btr_jax.models import model as model_lib


@pytest.mark.parametrize(
  ('name', 'below'),
  [
    ('token_embedder/embedding', True),
    ('encoder/relpos_bias/rel_embedding', True),
    ('codec/table', True),
    ('encoder/layers_1/mlp/wo/kernel', True),
    ('encoder/layers_2/pre_attention_layer_norm/scale', True),
    ('encoder/layers_2/attention/query/kernel', False),
    ('encoder/layers_2/pre_mlp_layer_norm/scale', False),
    ('encoder/layers_10/attention/query/kernel', False),
    ('encoder/encoder_norm/scale', False),
    ('decoder/layers_0/mlp/wo/kernel', False),
    ('decoder/relpos_bias/rel_embedding', False),
  ],
)
def test_what_is_below_the_split(name, below):
  assert frozen.is_below_split(name, split_layer=2) == below


@pytest.fixture(scope='module')
def models(small_model, drawn_params):
  """codec -> (model that trains above the split, parameters)."""

  def make(codec):
    whole = small_model(codec=codec)
    above = model_lib.BtrModel(
      whole.config, whole.limits, stage=3, train_lower=False
    )
    return above, drawn_params(whole)

  return make


@pytest.mark.parametrize('codec', ['residual', 'calibrated', 'float'])
def test_bits_depend_on_nothing_else(models, random_batch, codec):
  """Every parameter above the split may change without a bit changing."""
  model, params = models(codec)
  tokens = random_batch()['passage_tokens'].reshape(-1, 10)
  below = frozen.below_split(params, model.config.split_layer)
  changed = jax.tree.map(
    lambda leaf, stays: leaf if stays else leaf * 1.5 + 0.25, params, below
  )
  expected = model.encode_passages(params, tokens)
  found = model.encode_passages(changed, tokens)
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize('codec', ['residual', 'calibrated', 'float'])
def test_gradient_from_codes_is_that_of_the_whole(models, random_batch, codec):
  """Same loss and gradients, whether the lower layers run or were stored."""
  model, params = models(codec)
  batch = random_batch()
  packed = model.encode_passages(
    params, batch['passage_tokens'].reshape(-1, 10)
  )
  codes = {
    f'passage_{name}': array.reshape(2, 3, 10, array.shape[-1])
    for name, array in packed.items()
  }
  compute = jax.jit(
    jax.value_and_grad(
      lambda params, batch: model.loss_fn(params, batch, None)[0]
    )
  )
  loss, grads = compute(params, {**batch, **codes})
  recomputed_loss, recomputed = compute(params, batch)
  # bfloat16 states are what the float codec stores.
  tolerance = 2e-2 if codec == 'float' else 1e-5
  np.testing.assert_allclose(loss, recomputed_loss, rtol=tolerance)
  below = frozen.below_split(params, model.config.split_layer)
  for stays, grad, other in zip(
    *map(jax.tree.leaves, (below, grads, recomputed)), strict=True
  ):
    assert np.any(grad) != stays
    if codec != 'float':
      np.testing.assert_allclose(grad, other, atol=1e-5)


def test_codes_are_refused_where_they_would_grow_stale(models, random_batch):
  model, params = models('residual')
  whole = model_lib.BtrModel(model.config, model.limits, stage=3)
  codes = {
    'passage_bits': jnp.zeros((2, 3, 10, 2), jnp.uint8),
    'passage_scale': jnp.zeros((2, 3, 10, 3), jnp.uint8),
  }
  with pytest.raises(ValueError, match='TRAIN_LOWER=False'):
    whole.loss_fn(params, {**random_batch(), **codes}, None)


def test_fingerprint_tells_what_caches_depend_on(models):
  model, params = models('residual')
  config = model.config
  original = frozen.fingerprint(params, config)
  flat = model_lib.flat_params(params)
  for name in flat:
    changed = model_lib.nested_params({**flat, name: flat[name] + 1.0})
    same = frozen.fingerprint(changed, config) == original
    assert same != frozen.is_below_split(name, config.split_layer), name
  other = dataclasses.replace(config, num_encoder_layers=4)
  assert frozen.fingerprint(params, other) != original


def test_fingerprint_does_not_tell_how_a_reader_is_trained(models):
  """A run without dropout reads the codes of a reader that had it."""
  model, params = models('residual')
  for change in ({'dropout_rate': 0.37}, {'initializer': 'mimetic'}):
    other = dataclasses.replace(model.config, **change)
    assert other != model.config
    expected = frozen.fingerprint(params, model.config)
    assert frozen.fingerprint(params, other) == expected
