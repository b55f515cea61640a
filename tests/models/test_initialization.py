"""Mimetic initialisation: other values, the same parameters and function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import model as model_lib


def _params(model):
  return model.get_initial_variables(jax.random.key(3), model.input_shapes())[
    'params'
  ]


@pytest.fixture
def mimetic(small_model):
  return _params(small_model(1, initializer='mimetic', num_heads=2))


def test_only_attention_changes(small_model, mimetic):
  plain = model_lib.flat_params(_params(small_model(1)))
  changed = model_lib.flat_params(mimetic)
  assert {n: v.shape for n, v in plain.items()} == {
    n: v.shape for n, v in changed.items()
  }
  different = {n for n in plain if not np.array_equal(plain[n], changed[n])}
  assert different == {
    n for n in plain if 'attention/' in n or 'relpos_bias' in n
  }


def test_equal_tokens_attend_to_each_other(mimetic):
  """q k^T of a random token is largest with itself, in every layer."""
  tokens = jax.random.normal(jax.random.key(0), (12, 16))
  for stack, attention in [
    ('encoder', 'attention'),
    ('decoder', 'encoder_decoder_attention'),
  ]:
    kernels = mimetic[stack]['layers_1'][attention]
    queries = tokens @ kernels['query']['kernel']
    keys = tokens @ kernels['key']['kernel']
    scores = queries @ keys.T
    np.testing.assert_array_equal(jnp.argmax(scores, axis=1), jnp.arange(12))


def test_attention_copies(mimetic):
  """value then out is the identity when all heads read one token."""
  kernels = mimetic['decoder']['layers_0']['encoder_decoder_attention']
  both = kernels['value']['kernel'] @ kernels['out']['kernel']
  np.testing.assert_allclose(both, np.eye(16), atol=1e-5)


def test_one_head_looks_back_and_one_ahead(small_model, mimetic):
  from btr_jax.models import attention

  bias = attention.RelativePositionBias(2, 32, 128, bidirectional=True)
  positions = np.arange(9, dtype=np.int32)
  scores = bias.apply(
    {'params': mimetic['encoder']['relpos_bias']}, positions, positions
  )[0]
  np.testing.assert_array_equal(jnp.argmax(scores[0, 1:], 1), jnp.arange(8))
  np.testing.assert_array_equal(
    jnp.argmax(scores[1, :-1], 1), 1 + jnp.arange(8)
  )


def test_layers_start_apart(mimetic):
  first, second = (
    mimetic['encoder'][f'layers_{i}']['attention']['key']['kernel']
    for i in (0, 1)
  )
  assert float(jnp.abs(first - second).max()) > 0.1


def test_unknown_initializer_is_named(small_model):
  with pytest.raises(ValueError, match="initializer is 'copy'; expected"):
    small_model(1, initializer='copy')
