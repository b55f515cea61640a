"""Choosing and scoring spans."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.span_reader import network, spans


def scores_of(seed):
  generator = np.random.default_rng(seed)
  start, end = generator.standard_normal((2, 3, 2, 7)).astype(np.float32)
  return network.Scores(jnp.asarray(start), jnp.asarray(end))


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('longest', [1, 3, 20])
def test_the_best_span_is_the_best_of_all(seed, longest):
  scores = scores_of(seed)
  found = spans.best(scores, longest)
  for row in range(3):
    wanted = max(
      (float(scores.start[row, n, s] + scores.end[row, n, e]), n, s, e)
      for n in range(2)
      for s in range(7)
      for e in range(s, min(7, s + longest))
    )
    assert float(found.score[row]) == pytest.approx(wanted[0])
    place = tuple(int(part[row]) for part in found[:3])
    assert place == wanted[1:]


def test_loss_is_the_likelihood_over_all_passages():
  scores = scores_of(0)
  starts = np.zeros((3, 2, 7), np.float32)
  ends = np.zeros((3, 2, 7), np.float32)
  starts[0, 1, 2] = starts[0, 1, 5] = ends[0, 1, 4] = 1
  weights = np.array([1, 0, 0], np.float32)  # the others are padding
  loss = spans.loss(scores, *map(jnp.asarray, (starts, ends, weights)))

  def probability(values, right):
    values = np.exp(np.asarray(values[0]))
    return (values * right[0]).sum() / values.sum()

  wanted = -0.5 * (
    np.log(probability(scores.start, starts))
    + np.log(probability(scores.end, ends))
  )
  assert float(loss) == pytest.approx(wanted, rel=1e-5)
  grads = jax.jit(jax.grad(spans.loss))(
    scores, *map(jnp.asarray, (starts, ends, weights))
  )
  assert np.isfinite(grads.start).all()
  assert not np.any(grads.start[1:])
