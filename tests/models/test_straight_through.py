"""Straight-through estimators against their formulas."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import straight_through

VALUES = jnp.asarray([-300.0, -1.5, -0.2, 0.0, 1e-4, 0.7, 2.0, 500.0])


def test_sign_is_hard_forward():
  np.testing.assert_array_equal(
    straight_through.sign(VALUES), [-1, -1, -1, -1, 1, 1, 1, 1]
  )


def test_sign_has_the_derivative_of_tanh_backward():
  gradient = jax.grad(lambda x: jnp.sum(straight_through.sign(x) * 3.0))(VALUES)
  expected = 3.0 * (1.0 - np.tanh(np.asarray(VALUES, np.float64)) ** 2)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_beta_grows_from_one_to_its_end():
  betas = [
    float(straight_through.annealed_beta(step, 8, 5.0)) for step in range(10)
  ]
  # sqrt(1 + 24 step / 8): BPR's, with gamma = 3.
  expected = np.sqrt(1 + 3.0 * np.minimum(np.arange(10), 8))
  np.testing.assert_allclose(betas, expected, rtol=1e-6)
  assert betas[0] == 1.0 and betas[8] == betas[9] == 5.0


@pytest.mark.parametrize('beta', [1.0, 2.5, 32.0])
def test_annealed_sign_is_tanh_both_ways(beta):
  exact = np.asarray(VALUES, np.float64)
  soft = straight_through.binarize(VALUES, beta)
  np.testing.assert_allclose(soft, np.tanh(beta * exact), atol=1e-6)
  gradient = jax.grad(
    lambda x: jnp.sum(straight_through.binarize(x, beta) * 3.0)
  )(VALUES)
  expected = 3.0 * beta * (1.0 - np.tanh(beta * exact) ** 2)
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'quantizer',
  [straight_through.round_to_bfloat16, straight_through.round_to_log_code],
)
def test_rounding_is_the_identity_backward(quantizer):
  values = jnp.asarray([0.3, 1.0, 2.7, 90.0])
  assert float(jnp.abs(quantizer(values) - values).max()) > 0
  gradient = jax.grad(lambda x: jnp.sum(quantizer(x)))(values)
  np.testing.assert_array_equal(gradient, 1.0)


@hypothesis.given(st.floats(2.0**-8, 2.0**7.9))
@hypothesis.settings(deadline=None, derandomize=True)
def test_log_code_is_within_its_step(value):
  code = straight_through.log_code(jnp.float32(value))
  decoded = float(straight_through.log_decode(code))
  assert abs(decoded / value - 1) < 2 ** (1 / 32) - 1 + 1e-5
  assert straight_through.log_code(jnp.float32(decoded)) == code


def test_log_code_saturates():
  codes = straight_through.log_code(jnp.asarray([0.0, 1e-9, 1e9]))
  np.testing.assert_array_equal(codes, [0, 0, 255])
