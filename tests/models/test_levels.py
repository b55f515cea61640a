"""Levels of several bits: round trips, nearness, and the step's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import levels


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_packing_loses_nothing(bits):
  rng = np.random.default_rng(bits)
  drawn = 2 * rng.integers(0, 2**bits, (3, 5, 16)) - (2**bits - 1)
  packed = levels.pack(jnp.asarray(drawn, jnp.float32), bits)
  assert packed.shape == (3, 5, 16 * bits // 8)
  assert packed.dtype == jnp.uint8
  np.testing.assert_array_equal(levels.unpack(packed, bits), drawn)


def test_one_bit_is_the_order_of_numpys_packbits():
  signs = np.array([[1, 1, -1, -1, -1, -1, -1, 1]], np.float32)
  np.testing.assert_array_equal(
    levels.pack(jnp.asarray(signs), 1), np.packbits(signs > 0, axis=-1)
  )


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_the_nearest_level_is_taken(bits):
  values = jnp.linspace(-(2.0**bits) - 3, 2.0**bits + 3, 4001)
  every = np.arange(-(2**bits - 1), 2**bits, 2, dtype=np.float32)
  nearest = every[np.abs(np.asarray(values)[:, None] - every).argmin(1)]
  off = np.asarray(levels.quantize(values, bits)) - nearest
  # Halfway between two levels either is right.
  halfway = np.abs(np.asarray(values) % 2) < 1e-3
  assert not np.abs(off[~halfway]).max()


def test_gradients_pass_between_the_outermost_levels_alone():
  gradient = jax.vmap(jax.grad(lambda x: levels.quantize(x, 2)))
  found = gradient(jnp.array([-5.0, -2.9, 0.3, 2.0, 3.5]))
  np.testing.assert_array_equal(found, [0, 1, 1, 1, 0])


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_the_half_step_is_the_best_for_a_normal_variable(bits):
  values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)

  def error(half_step):
    unit = half_step * np.abs(values).mean()
    level = np.asarray(levels.quantize(jnp.asarray(values / unit), bits))
    return np.square(level * unit - values).mean()

  chosen = error(levels.HALF_STEP[bits])
  others = [error(levels.HALF_STEP[bits] * f) for f in (0.85, 1.15)]
  assert chosen < min(others)
