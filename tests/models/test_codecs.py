"""Token codecs: formulas, bytes, and what training them needs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import codec_fit, codecs, token_codec

EMBED = 16


@pytest.fixture
def states():
  rng = np.random.default_rng(0)
  scale = np.exp(rng.normal(size=EMBED))  # Dimensions of unequal size.
  return jnp.asarray(rng.normal(size=(5, 7, EMBED)) * scale * 40, jnp.float32)


@pytest.fixture
def token_ids():
  return jnp.asarray(np.random.default_rng(1).integers(1, 48, (5, 7)))


@pytest.fixture
def norm_scale():
  return jnp.linspace(0.5, 2.0, EMBED)


def _bound(small_config, kind, states, token_ids, norm_scale, **overrides):
  codec = codecs.make_codec(small_config(kind, **overrides))

  def everything(module, states):
    code = module.encode(states, token_ids, norm_scale)
    module.recovery_error(code, states, token_ids, norm_scale)
    return module.decode(code, token_ids, norm_scale)

  variables = codec.init(jax.random.key(0), states, method=everything)
  return codec.bind({'params': variables.get('params', {})})


def test_calibrated_follows_the_paper(
  small_config, states, token_ids, norm_scale
):
  """b = sign(w x / sqrt(v)), x_hat = b sqrt(v) / w, in float64."""
  codec = _bound(small_config, 'calibrated', states, token_ids, norm_scale)
  code = codec.encode(states, token_ids, norm_scale)
  exact = np.asarray(states, np.float64)
  variance = np.mean(exact**2, axis=-1, keepdims=True) + 1e-6
  np.testing.assert_array_equal(code.values, np.where(exact > 0, 1.0, -1.0))
  np.testing.assert_allclose(code.scale, variance, rtol=2**-8)
  decoded = codec.decode(code, token_ids, norm_scale)
  expected = np.sign(exact) * np.sqrt(variance) / np.asarray(norm_scale)
  np.testing.assert_allclose(decoded, expected, rtol=2**-8)


def test_calibrated_gradient_is_that_of_tanh_after_the_norm(
  small_config, states, token_ids, norm_scale
):
  codec = _bound(small_config, 'calibrated', states, token_ids, norm_scale)

  def through_codec(states):
    code = codec.encode(states, token_ids, norm_scale)
    return jnp.sum(code.values * jnp.arange(EMBED)[None, None])

  def through_tanh(states):
    rms = jnp.sqrt(jnp.mean(states**2, -1, keepdims=True) + 1e-6)
    soft = jnp.tanh(states / rms * norm_scale[None, None])
    return jnp.sum(soft * jnp.arange(EMBED)[None, None])

  np.testing.assert_allclose(
    jax.grad(through_codec)(states),
    jax.grad(through_tanh)(states),
    rtol=1e-4,
    atol=1e-6,
  )


def test_calibrated_survives_a_vanishing_norm_scale(
  small_config, states, token_ids, norm_scale
):
  norm_scale = norm_scale.at[3].set(0.0)
  codec = _bound(small_config, 'calibrated', states, token_ids, norm_scale)
  decoded = codec.decode(
    codec.encode(states, token_ids, norm_scale), token_ids, norm_scale
  )
  assert np.isfinite(np.asarray(decoded)).all()


@pytest.mark.parametrize('kind', config_lib.CODECS)
def test_packing_loses_nothing(
  small_config, states, token_ids, norm_scale, kind
):
  codec = _bound(small_config, kind, states, token_ids, norm_scale)
  code = codec.encode(states, token_ids, norm_scale)
  packed = codec.pack(code)
  layout = token_codec.codec_layout(codec.config)
  assert packed.bits.shape == states.shape[:-1] + (layout.bits_bytes,)
  assert packed.scale.shape == states.shape[:-1] + (layout.scale_bytes,)
  unpacked = codec.unpack(packed)
  np.testing.assert_allclose(unpacked.values, code.values, rtol=1e-6)
  np.testing.assert_allclose(unpacked.scale, code.scale, rtol=1e-6)


def test_bits_are_in_the_order_of_numpy_packbits(
  small_config, states, token_ids, norm_scale
):
  codec = _bound(small_config, 'sign', states, token_ids, norm_scale)
  packed = codec.pack(codec.encode(states, token_ids, norm_scale))
  expected = np.packbits(np.asarray(states) > 0, axis=-1)
  np.testing.assert_array_equal(packed.bits, expected)


@pytest.mark.parametrize('num_bits', [8, 16])
def test_residual_follows_its_formula(
  small_config, states, token_ids, norm_scale, num_bits
):
  codec = _bound(
    small_config, 'residual', states, token_ids, norm_scale, num_bits=num_bits
  )
  rng = np.random.default_rng(5)
  rotation = np.linalg.qr(rng.normal(size=(EMBED, EMBED)))[0][:, :num_bits]
  params = {
    'table': rng.normal(size=(48, EMBED)).astype(np.float32),
    'deviation': rng.uniform(0.5, 2, EMBED).astype(np.float32),
    'rotation': rotation.astype(np.float32),
    'level': rng.uniform(0.5, 2, num_bits).astype(np.float32),
  }
  bound = jax.tree.map(jnp.asarray, params)
  codec = codecs.make_codec(codec.config).bind({'params': bound})
  code = codec.encode(states, token_ids, norm_scale)

  x = np.asarray(states, np.float64)
  rms = np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
  predicted = params['table'][np.asarray(token_ids)]
  z = (x / rms / params['deviation'] - predicted) @ rotation
  amplitude = np.mean(np.abs(z) / params['level'], -1, keepdims=True)
  np.testing.assert_array_equal(code.values, np.where(z > 0, 1, -1))
  np.testing.assert_allclose(code.scale[..., :1], rms, rtol=2**-8)
  np.testing.assert_allclose(code.scale[..., 1:], amplitude, rtol=0.023)

  stored_rms, stored_amplitude = np.split(np.asarray(code.scale), 2, -1)
  residual = np.sign(z) * params['level'] * stored_amplitude @ rotation.T
  expected = (predicted + residual) * params['deviation'] * stored_rms
  np.testing.assert_allclose(
    codec.decode(code, token_ids, norm_scale), expected, rtol=1e-3, atol=1e-2
  )


def test_fitted_residual_codec_beats_the_sign_at_half_its_bits(
  small_config, norm_scale
):
  """States that depend on the token id, plus a correlated remainder."""
  rng = np.random.default_rng(3)
  table = rng.normal(size=(48, EMBED))
  basis = rng.normal(size=(4, EMBED))
  tokens = rng.integers(1, 48, (64, 12)).astype(np.int32)

  def states_of(tokens):
    seed = np.random.default_rng(int(tokens.sum()))
    remainder = seed.normal(size=tokens.shape + (4,)) @ basis * 0.4
    return (table[tokens] + remainder).astype(np.float32) * 30

  config = dataclasses.replace(
    small_config('residual'), codec=config_lib.CodecConfig('residual', 8)
  )
  params = codec_fit.fit_residual_codec(
    states_of, np.split(tokens, 8), config, prediction='mean'
  )
  rotation = params['rotation']
  np.testing.assert_allclose(rotation.T @ rotation, np.eye(8), atol=1e-5)
  bound = jax.tree.map(jnp.asarray, params)
  codec = codecs.make_codec(config).bind({'params': bound})
  fresh = rng.integers(1, 48, (8, 12)).astype(np.int32)
  states = jnp.asarray(states_of(fresh))
  code = codec.encode(states, jnp.asarray(fresh), norm_scale)
  decoded = codec.decode(code, jnp.asarray(fresh), norm_scale)

  def relative_error(decoded):
    return float(jnp.sum((decoded - states) ** 2) / jnp.sum(states**2))

  best_level = jnp.mean(jnp.abs(states), axis=(0, 1), keepdims=True)
  sign_error = relative_error(jnp.sign(states) * best_level)
  table_alone = codec.decode(
    code.replace(values=jnp.zeros_like(code.values)), jnp.asarray(fresh), None
  )
  assert relative_error(decoded) < 0.6 * sign_error
  assert relative_error(decoded) < 0.6 * relative_error(table_alone)


@pytest.mark.parametrize('kind', ['calibrated', 'residual', 'sign', 'float'])
def test_every_codec_lets_gradients_reach_the_states(
  small_config, states, token_ids, norm_scale, kind
):
  codec = _bound(small_config, kind, states, token_ids, norm_scale)

  def loss(states):
    code = codec.encode(states / 40, token_ids, norm_scale)
    error = codec.recovery_error(code, states / 40, token_ids, norm_scale)
    decoded = codec.decode(code, token_ids, norm_scale)
    return jnp.sum(decoded[..., 0]) + jnp.sum(error)

  gradient = jax.grad(loss)(states)
  assert np.isfinite(np.asarray(gradient)).all()
  assert float(jnp.abs(gradient).max()) > 0
