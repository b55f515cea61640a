"""Buckets of relative positions: T5X's, though NumPy computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import attention


def _as_t5x(relative_position, bidirectional, num_buckets, max_distance):
  """As T5X's RelativePositionBiases has it, in JAX."""
  result = 0
  n = -relative_position
  if bidirectional:
    num_buckets //= 2
    result += (n < 0).astype(jnp.int32) * num_buckets
    n = jnp.abs(n)
  else:
    n = jnp.maximum(n, 0)
  max_exact = num_buckets // 2
  large = max_exact + (
    jnp.log(n.astype(jnp.float32) / max_exact + jnp.finfo(jnp.float32).eps)
    / np.log(max_distance / max_exact)
    * (num_buckets - max_exact)
  ).astype(jnp.int32)
  large = jnp.minimum(large, num_buckets - 1)
  return result + jnp.where(n < max_exact, n, large)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('num_buckets, max_distance', [(32, 128), (16, 64)])
def test_buckets_are_those_of_t5x(bidirectional, num_buckets, max_distance):
  distances = np.arange(-1024, 1025, dtype=np.int32)
  found = attention.relative_position_buckets(
    distances, bidirectional, num_buckets, max_distance
  )
  expected = jax.jit(_as_t5x, static_argnums=(1, 2, 3))(
    distances, bidirectional, num_buckets, max_distance
  )
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(found)) == num_buckets - bidirectional


def test_a_program_holds_buckets_and_computes_no_logarithm():
  bias = attention.RelativePositionBias(2, 32, 128, bidirectional=True)
  positions = np.arange(40, dtype=np.int32)
  params = {'rel_embedding': np.arange(64, dtype=np.float32).reshape(2, 32)}
  apply = jax.jit(lambda p: bias.apply({'params': p}, positions, positions))
  assert ' log(' not in apply.lower(params).as_text('hlo')
  found = np.asarray(apply(params))[0]
  buckets = attention.relative_position_buckets(
    positions[None] - positions[:, None], True, 32, 128
  )
  np.testing.assert_array_equal(found, params['rel_embedding'][:, buckets])
