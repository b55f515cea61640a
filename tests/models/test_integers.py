"""Products in eight bits: near the exact ones, and only where asked for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import adapters, integers
from btr_jax.serving import programs as programs_lib


def _normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def test_codes_are_the_nearest_within_half_a_step():
  matrix = _normal(0, 24, 40) * jnp.logspace(-3, 3, 24)[:, None]
  codes, step = integers.rounded(matrix, axis=1)
  assert codes.dtype == jnp.int8 and step.shape == (24, 1)
  assert int(jnp.abs(codes).max()) == 127
  error = jnp.abs(codes.astype(jnp.float32) * step - matrix)
  assert float((error / step).max()) <= 0.5 + 1e-3


def test_rows_of_zeros_stay_zeros():
  codes, step = integers.rounded(jnp.zeros((3, 8)), axis=1)
  product = integers.dot(jnp.zeros((2, 3)), codes, jnp.ones((1, 8)))
  assert np.all(np.asarray(product) == 0) and np.all(np.isfinite(step))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_product_is_that_of_the_rounded_matrices(dtype):
  rows, kernel = _normal(1, 30, 64).astype(dtype), _normal(2, 64, 48)
  codes, step = integers.rounded(kernel, axis=0)
  found = integers.dot(rows, codes, step)
  assert found.dtype == rows.dtype
  row_codes, row_step = integers.rounded(rows, axis=1)
  # In float64, so that nothing but the steps is rounded.
  expected = (
    np.asarray(row_codes, np.float64) @ np.asarray(codes, np.float64)
  ) * (np.asarray(row_step, np.float64) * np.asarray(step, np.float64))
  tolerance = 1e-5 if dtype == 'float32' else 1e-2
  np.testing.assert_allclose(
    np.asarray(found, np.float64),
    expected,
    atol=tolerance * np.abs(expected).max(),
  )
  exact = np.asarray(rows, np.float64) @ np.asarray(kernel, np.float64)
  error = np.sqrt(np.mean((np.asarray(found, np.float64) - exact) ** 2))
  assert 0 < error < 0.02 * exact.std()


def _reader(small_model, **overrides):
  model = small_model(3, **overrides)
  variables = model.get_initial_variables(
    jax.random.key(0), model.input_shapes()
  )
  return model, variables['params']


def _states(model, params, batch, mode, **options):
  inference = config_lib.InferenceConfig(**options)
  programs = programs_lib.Programs(model, params, mode, inference)
  lowered = programs.lower('encode', batch).as_text()
  return programs.run('encode', batch)['states'], lowered


@pytest.mark.parametrize('mode', ['joint', 'decomposed', 'binary'])
@pytest.mark.parametrize('tokens_at_once', [10**9, 48])
def test_encoder_in_eight_bits_is_near(
  small_model, random_batch, mode, tokens_at_once
):
  model, params = _reader(small_model)
  batch = random_batch(4)
  exact, plain = _states(
    model, params, batch, mode, tokens_at_once=tokens_at_once
  )
  near, rounded = _states(
    model,
    params,
    batch,
    mode,
    tokens_at_once=tokens_at_once,
    int8_products=True,
  )
  # Four matrices of attention and three of the feed-forward layer; the lower
  # two layers run over question and passages, or over both together.
  products = re.compile(r'dot_general.*xi8>\) -> tensor<\S*xi32>')
  assert not products.findall(plain)
  layers = 3 if mode == 'joint' else 5
  assert len(products.findall(rounded)) == 7 * layers
  exact, near = (np.asarray(x, np.float64) for x in (exact, near))
  error = np.sqrt(np.mean((near - exact) ** 2)) / exact.std()
  # A bit whose state is near zero may turn over.
  assert 0 < error < (0.3 if mode == 'binary' else 0.03)


def test_answers_in_eight_bits_do_not_depend_on_neighbours(
  small_model, random_batch
):
  model, params = _reader(small_model)
  inference = config_lib.InferenceConfig(int8_products=True)
  programs = programs_lib.Programs(model, params, 'decomposed', inference)
  batch = random_batch(4)
  together = programs.run('answer', batch)
  for row in range(4):
    alone = {name: leaf[row : row + 1] for name, leaf in batch.items()}
    np.testing.assert_array_equal(
      programs.run('answer', alone)[0], together[row]
    )


def test_readers_whose_matrices_change_are_refused(small_model):
  _, params = _reader(small_model, adapter_rank=2)
  assert adapters.GROUP in params
  with pytest.raises(ValueError, match='adapters'):
    integers.prepared(params)
  _, params = _reader(small_model)
  node = {'codes': np.zeros((2, 2), np.int8), 'scale': np.ones((1, 1))}
  layer = {'mlp': {'wo': {'kernel': node}}}
  with pytest.raises(ValueError, match='encoder/layers_0/mlp/wo'):
    integers.prepared({**params, 'encoder': {'layers_0': layer}})
