"""Schedules, weight decay and clipping, by hand-computed values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.training import optimizers

PARAMS = {
  'mlp': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones((2,))},
  'norm': {'scale': jnp.ones((2,))},
  'relpos_bias': {'rel_embedding': jnp.ones((2, 2))},
  'codec': {'table': jnp.ones((2, 2))},
}


def config(**kwargs):
  return optimizers.OptimizerConfig(**kwargs)


@pytest.mark.parametrize(
  'schedule, expected',
  [
    ('constant', 1.0),
    ('linear', 0.5),
    ('cosine', 0.5 * (1 + math.cos(math.pi * 0.5))),
  ],
)
def test_schedule(schedule, expected):
  rate = optimizers.make_schedule(config(schedule=schedule), 1.0, 4, 12)
  np.testing.assert_allclose(
    [float(rate(step)) for step in range(4)], [0.25, 0.5, 0.75, 1.0]
  )
  assert float(rate(4)) == pytest.approx(1.0)
  assert float(rate(8)) == pytest.approx(expected)


def test_schedule_ends_at_final_fraction():
  for name in ('linear', 'cosine'):
    rate = optimizers.make_schedule(
      config(schedule=name, final_fraction=0.1), 2.0, 0, 10
    )
    assert float(rate(0)) == pytest.approx(2.0)
    assert float(rate(10)) == pytest.approx(0.2)


def test_one_warmup_step_is_at_the_peak():
  rate = optimizers.make_schedule(config(schedule='constant'), 3.0, 1, 10)
  assert float(rate(0)) == pytest.approx(3.0)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'name': 'sgd'}, "OPTIMIZER is 'sgd'; expected one of adamw"),
    ({'schedule': 'step'}, "SCHEDULE is 'step'"),
    ({'final_fraction': 2.0}, 'final_fraction is 2.0; expected 0 to 1'),
  ],
)
def test_config_errors(kwargs, message):
  with pytest.raises(ValueError, match=message):
    config(**kwargs)


def test_schedule_errors():
  with pytest.raises(ValueError, match='WARMUP_STEPS is 10; expected 0 to 9'):
    optimizers.make_schedule(config(), 1.0, 10, 10)
  with pytest.raises(ValueError, match='LEARNING_RATE is 0.0; expected'):
    optimizers.make_schedule(config(), 0.0, 0, 10)


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_weight_decay_spares_norms_biases_and_codec(name):
  optimizer = optimizers.make_optimizer(
    config(name=name, weight_decay=0.1), lambda step: 0.5
  )
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates['mlp']['kernel'], -0.05, rtol=1e-6)
  for group, leaf in (
    ('mlp', 'bias'),
    ('norm', 'scale'),
    ('relpos_bias', 'rel_embedding'),
    ('codec', 'table'),
  ):
    np.testing.assert_array_equal(updates[group][leaf], 0.0)


def test_adamw_first_step():
  optimizer = optimizers.make_optimizer(
    config(weight_decay=0.0, clip_norm=None, epsilon=0.0), lambda step: 0.1
  )
  params = {'kernel': jnp.array([1.0, 2.0])}
  grads = {'kernel': jnp.array([0.3, -4.0])}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  # After bias correction the first step is the sign of the gradient.
  np.testing.assert_allclose(updates['kernel'], [-0.1, 0.1], rtol=1e-5)


def test_muon_first_step():
  optimizer = optimizers.make_optimizer(
    config(name='muon', weight_decay=0.0, clip_norm=None, epsilon=1e-8),
    lambda step: 0.1,
  )
  params = {
    'layer': {'kernel': jnp.zeros((6, 4))},
    'logits_dense': {'kernel': jnp.zeros((6, 4))},
    'embedding': jnp.zeros((6, 4)),
  }
  matrix = np.random.default_rng(0).normal(size=(6, 4))
  grads = jax.tree.map(lambda _: jnp.asarray(matrix, jnp.float32), params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  # U V^T of the gradient, as large as AdamW's steps: all directions count the
  # same. Newton-Schulz takes the singular values to about 1, no closer.
  left, _, right = np.linalg.svd(matrix, full_matrices=False)
  found = left.T @ np.asarray(updates['layer']['kernel']) @ right.T
  scale = 0.1 * 0.2 * np.sqrt(6)
  off_diagonal = found - np.diag(np.diag(found))
  np.testing.assert_allclose(off_diagonal, 0.0, atol=1e-3 * scale)
  assert np.all(-np.diag(found) / scale > 0.6)
  assert np.all(-np.diag(found) / scale < 1.3)
  for other in (updates['logits_dense']['kernel'], updates['embedding']):
    # Adam's first step with Nesterov's look-ahead: 0.9 * 0.1 / 0.19 + 1.
    step = 0.1 * (0.09 / 0.19 + 1)
    np.testing.assert_allclose(other, -step * np.sign(matrix), rtol=1e-4)


def test_clipping_comes_first():
  def moment(clip_norm):
    optimizer = optimizers.make_optimizer(
      config(clip_norm=clip_norm), lambda step: 0.1
    )
    params = {'kernel': jnp.zeros((2,))}
    grads = {'kernel': jnp.array([3.0, 4.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    return next(
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(state)
      if 'mu' in jax.tree_util.keystr(path)
    )

  np.testing.assert_allclose(moment(None), [0.3, 0.4], rtol=1e-6)
  np.testing.assert_allclose(moment(1.0), [0.06, 0.08], rtol=1e-6)


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_above_the_split_the_rest_stays_and_costs_nothing(name):
  kernel = jnp.ones((4, 4))
  params = {
    'token_embedder': {'embedding': kernel},
    'encoder': {
      f'layers_{layer}': {'mlp': {'wo': {'kernel': kernel}}}
      for layer in range(3)
    },
  }
  optimizer = optimizers.above_split(
    optimizers.make_optimizer(
      config(name=name, weight_decay=0.1), lambda step: 0.5
    ),
    split_layer=2,
  )
  state = optimizer.init(params)
  updates, _ = optimizer.update(params, state, params)
  encoder = updates['encoder']
  assert np.all(encoder.pop('layers_2')['mlp']['wo']['kernel'] != 0)
  assert not any(map(np.any, jax.tree.leaves(updates)))
  # What is kept of a parameter has its name; all else are numbers of a rule.
  kept = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if leaf.ndim
  ]
  assert any('layers_2' in name for name in kept)
  assert not any('layers_1' in name or 'embedding' in name for name in kept)
