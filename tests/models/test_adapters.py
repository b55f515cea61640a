"""Low-rank adapters: nothing changes at first, they alone learn, they merge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import adapters, frozen
from btr_jax.models import model as model_lib

RANK = 2


@pytest.fixture(scope='module')
def model(small_model):
  return small_model(stage=3, adapter_rank=RANK, train_lower=False)


@pytest.fixture(scope='module')
def params(model):
  return model.get_initial_variables(jax.random.key(0), model.input_shapes())[
    'params'
  ]


def _moved(params, seed=1):
  """The same with adapters that change something."""
  rng = np.random.default_rng(seed)
  thin = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, leaf.dtype),
    params[adapters.GROUP],
  )
  return {**params, adapters.GROUP: thin}


def test_kernels_above_the_split_are_adapted_and_no_others(model, params):
  split = model.config.split_layer
  names = adapters.adapted_names(params, split, lower=False)
  assert 'encoder/layers_2/attention/query/kernel' in names
  assert 'decoder/layers_0/encoder_decoder_attention/key/kernel' in names
  assert 'decoder/logits_dense/kernel' in names
  assert not any(frozen.is_below_split(name, split) for name in names)
  flat = model_lib.flat_params(params)
  kernels = {n for n in flat if n.endswith('/kernel') and 'adapters' not in n}
  below = {n for n in kernels if frozen.is_below_split(n, split)}
  assert set(names) == kernels - below
  every = adapters.adapted_names(params, split, lower=True)
  assert set(every) == {n for n in kernels if not n.startswith('codec/')}


def test_fresh_adapters_change_nothing(params):
  merged = adapters.merged(params)
  assert adapters.GROUP not in merged
  for name, leaf in model_lib.flat_params(merged).items():
    np.testing.assert_array_equal(leaf, model_lib.flat_params(params)[name])


def test_merging_adds_the_product_of_the_thin_matrices(params):
  moved = _moved(params)
  name = 'encoder/layers_2/mlp/wi_0/kernel'
  flat = model_lib.flat_params(moved)
  down, up = flat[f'adapters/{name}/down'], flat[f'adapters/{name}/up']
  assert down.shape == (16, RANK) and up.shape == (RANK, 24)
  found = model_lib.flat_params(adapters.merged(moved))[name]
  expected = np.asarray(flat[name], np.float64) + np.asarray(
    down, np.float64
  ) @ np.asarray(up, np.float64)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradients_reach_the_adapters_alone(model, params, random_batch):
  grads = jax.grad(lambda p: model.loss_fn(p, random_batch(), None)[0])(
    _moved(params)
  )
  for name, grad in model_lib.flat_params(grads).items():
    assert np.any(grad) == name.startswith('adapters/'), name


def test_with_the_lower_layers_their_adapters_learn_too(
  small_model, random_batch
):
  """Through the bits, by the straight-through estimator; codes are refused."""
  model = small_model(stage=3, adapter_rank=RANK)
  params = model.get_initial_variables(jax.random.key(0), model.input_shapes())[
    'params'
  ]
  loss = jax.grad(lambda p: model.loss_fn(p, random_batch(), None)[0])
  grads = model_lib.flat_params(loss(_moved(params)))
  for name, grad in grads.items():
    assert np.any(grad) == name.startswith('adapters/'), name
  assert np.any(grads['adapters/encoder/layers_0/mlp/wo/kernel/up'])
  codes = {
    'passage_bits': jnp.zeros((2, 3, 10, 2), jnp.uint8),
    'passage_scale': jnp.zeros((2, 3, 10, 3), jnp.uint8),
  }
  with pytest.raises(ValueError, match='TRAIN_LOWER=False'):
    model.loss_fn(params, {**random_batch(), **codes}, None)


def test_losses_and_answers_are_those_of_the_merged_reader(
  model, params, small_model, random_batch
):
  moved, plain = _moved(params), small_model(stage=3, train_lower=False)
  whole, batch = adapters.merged(moved), random_batch()
  np.testing.assert_allclose(
    model.loss_fn(moved, batch, None)[0],
    plain.loss_fn(whole, batch, None)[0],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    model.eval_fn(moved, batch)[0], plain.eval_fn(whole, batch)[0], rtol=1e-6
  )
  tokens, aux = model.predict_batch_with_aux(moved, batch)
  expected, expected_aux = plain.predict_batch_with_aux(whole, batch)
  np.testing.assert_array_equal(tokens, expected)
  np.testing.assert_allclose(aux['scores'], expected_aux['scores'], rtol=1e-5)


def test_every_adapter_has_axes_and_the_rank_is_on_no_mesh(model):
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )
  thin = model_lib.flat_params(variables['params'])
  of_axes = model_lib.flat_params(variables['params_axes'])
  names = [n for n in thin if n.startswith('adapters/')]
  assert names
  for name in names:
    found = of_axes[f'{name}_axes'].names
    assert len(found) == len(thin[name].shape)
    assert found[1 if name.endswith('/down') else 0] == 'rank'


def test_a_rank_of_nothing_is_refused(params):
  with pytest.raises(ValueError, match='ADAPTER_RANK is 0'):
    adapters.initial(params, jax.random.key(0), [], 0)
