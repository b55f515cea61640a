"""Losses against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import losses


def test_cross_entropy_of_two_tokens():
  """p = [1/2, 1/4, 1/4] and uniform over three; the third is padding."""
  logits = jnp.log(
    jnp.asarray([[[2.0, 1.0, 1.0], [1.0, 1.0, 1.0], [9.0, 1.0, 1.0]]])
  )
  targets = jnp.asarray([[0, 2, 1]])
  weights = jnp.asarray([[1.0, 1.0, 0.0]])
  loss, accuracy = losses.cross_entropy(logits, targets, weights)
  np.testing.assert_allclose(loss, (np.log(2) + np.log(3)) / 2, rtol=1e-6)
  np.testing.assert_allclose(accuracy, 0.5)


def test_cross_entropy_without_targets_is_zero():
  loss, accuracy = losses.cross_entropy(
    jnp.ones((1, 2, 3)), jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2))
  )
  assert (float(loss), float(accuracy)) == (0.0, 0.0)


ATTENTION = jnp.asarray([[0.1, 0.5, 0.2, 0.9], [0.3, 0.1, 0.2, 0.0]])
MASK = jnp.asarray([[True, True, True, False], [True, True, True, True]])


def test_selects_the_half_attended_to_most():
  """Three real tokens: ceil(1.5) = 2; the padding's 0.9 does not count."""
  chosen = losses.select_tokens(ATTENTION, MASK, 0.5)
  np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [1, 0, 1, 0]])


def test_selects_all():
  chosen = losses.select_tokens(ATTENTION, MASK, 0.5, 'all')
  np.testing.assert_array_equal(chosen, MASK)


def test_selects_at_random_as_many_and_only_real_tokens():
  mask = jnp.arange(40)[None] < jnp.asarray([[20], [31]])
  chosen = losses.select_tokens(
    jnp.zeros((2, 40)), mask, 0.5, 'random', jax.random.key(0)
  )
  other = losses.select_tokens(
    jnp.zeros((2, 40)), mask, 0.5, 'random', jax.random.key(1)
  )
  np.testing.assert_array_equal(chosen.sum(-1), [10, 16])
  assert not np.any(chosen & ~mask)
  assert np.any(chosen != other)


@pytest.mark.parametrize('how', ['random', 'best'])
def test_selection_refuses(how):
  with pytest.raises(ValueError, match='random key|expected one of attention'):
    losses.select_tokens(ATTENTION, MASK, 0.5, how)


def test_distillation_by_hand():
  """States of rms 1, so that normalising changes nothing.

  Token 0 differs by (2, 0) -> mean square 2, token 1 by (0, 0), token 2 is
  not chosen. The mean over two chosen tokens is 1; the second layer is equal.
  """
  teacher = jnp.asarray([[[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]])
  student = jnp.asarray([[[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]])
  chosen = jnp.asarray([[True, True, False]])
  loss = losses.distillation((teacher, teacher), (student, teacher), chosen)
  np.testing.assert_allclose(loss, 0.5, rtol=1e-5)


def test_distillation_ignores_the_scale_and_does_not_train_the_teacher():
  teacher = jnp.asarray([[[3.0, 1.0], [0.5, -2.0]]])
  chosen = jnp.asarray([[True, True]])
  loss = losses.distillation((teacher,), (teacher * 100,), chosen)
  np.testing.assert_allclose(loss, 0.0, atol=1e-6)

  def of_teacher(teacher):
    return losses.distillation((teacher,), (jnp.ones_like(teacher),), chosen)

  np.testing.assert_array_equal(jax.grad(of_teacher)(teacher), 0.0)
