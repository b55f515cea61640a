"""The jitted update: accumulation, meshes, teachers, keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from btr_jax.training import partitioning
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib


def start(model, mesh, optimizer=None, microbatches=1, seed=0):
  optimizer = optimizer or optax.sgd(0.5)
  abstract = state_lib.abstract_state(model, optimizer, mesh)
  with partitioning.mesh_context(mesh):
    params = state_lib.init_params(model, abstract, seed)
    mutables = {name: params for name in abstract.mutables}
    state = state_lib.create_state(abstract, optimizer, params, mutables)
  step = step_lib.make_train_step(
    model,
    optimizer,
    lambda step: 0.5,
    abstract,
    mesh,
    seed=seed,
    microbatches=microbatches,
  )
  return state, step


def run(model, mesh, batches, steps=3, **kwargs):
  state, step = start(model, mesh, **kwargs)
  for _ in range(steps):
    batch = partitioning.shard_batch(next(batches), mesh)
    state, metrics = step(state, batch)
  return state, metrics


def assert_close(left, right):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a), np.asarray(b), atol=1e-5, rtol=1e-5
    ),
    left,
    right,
  )


def test_accumulated_gradients_are_those_of_the_batch(
  one_device_mesh, make_table_model, make_table_batches
):
  model = make_table_model(noise=0.0)
  whole, whole_metrics = run(model, one_device_mesh, make_table_batches())
  parts, parts_metrics = run(
    model, one_device_mesh, make_table_batches(), microbatches=4
  )
  assert_close(whole.params, parts.params)
  assert float(whole_metrics['loss'].compute()) == pytest.approx(
    float(parts_metrics['loss'].compute()), rel=1e-5
  )


@pytest.mark.parametrize('microbatches', [1, 2])
def test_mesh_does_not_change_the_result(
  one_device_mesh,
  square_mesh,
  make_table_model,
  make_table_batches,
  microbatches,
):
  model = make_table_model(noise=0.0)
  alone, _ = run(model, one_device_mesh, make_table_batches())
  spread, _ = run(
    model, square_mesh, make_table_batches(), microbatches=microbatches
  )
  assert spread.params['head']['kernel'].sharding.spec[1] == 'model'
  assert_close(alone.params, spread.params)


def test_teacher_is_carried_not_trained(
  one_device_mesh, make_table_model, make_table_batches
):
  model = make_table_model(teacher=True)
  before, _ = start(model, one_device_mesh)
  teacher = jax.tree.map(np.asarray, before.mutables['teacher'])
  after, _ = run(model, one_device_mesh, make_table_batches())
  jax.tree.map(
    np.testing.assert_array_equal, teacher, after.mutables['teacher']
  )
  assert np.any(
    np.asarray(after.params['head']['kernel']) != teacher['head']['kernel']
  )


def test_dropout_depends_on_seed_and_step(
  one_device_mesh, table_model, make_table_batches
):
  batch = partitioning.shard_batch(next(make_table_batches()), one_device_mesh)

  def losses(seed, optimizer):
    state, step = start(
      table_model, one_device_mesh, optimizer=optimizer, seed=seed
    )
    result = []
    for _ in range(2):
      state, metrics = step(state, batch)
      result.append(float(metrics['loss'].compute()))
    return result

  frozen = optax.sgd(0.0)
  first, second = losses(0, frozen)
  assert first != second  # Same parameters and batch, another key.
  assert losses(0, frozen) == [first, second]


def test_metrics_of_a_step(one_device_mesh, table_model, make_table_batches):
  state, metrics = run(table_model, one_device_mesh, make_table_batches())
  assert int(state.step) == 3
  assert float(metrics['learning_rate']) == 0.5
  assert float(metrics['grad_norm']) > 0


def test_create_state_names_wrong_mutables(one_device_mesh, table_model):
  optimizer = optax.sgd(0.1)
  abstract = state_lib.abstract_state(table_model, optimizer, one_device_mesh)
  params = state_lib.init_params(table_model, abstract, 0)
  with pytest.raises(ValueError, match=r"mutables \[\]; found \['teacher'\]"):
    state_lib.create_state(abstract, optimizer, params, {'teacher': params})


def test_merge_params_keeps_codec_fresh_only():
  fresh = {
    'encoder': {'kernel': jnp.zeros((2, 2))},
    'codec': {'table': jnp.zeros((3,)), 'level': jnp.zeros((1,))},
  }
  loaded = {'encoder': {'kernel': np.ones((2, 2), np.float32)}}
  merged, stayed = state_lib.merge_params(fresh, loaded, 'stage2')
  assert sorted(stayed) == ['codec/level', 'codec/table']
  assert merged['encoder']['kernel'][0, 0] == 1
  # Half a codec is another codec: none of it is taken.
  loaded['codec'] = {'table': np.ones((3,), np.float32)}
  merged, stayed = state_lib.merge_params(fresh, loaded, 'stage3')
  assert sorted(stayed) == ['codec/level', 'codec/table']
  assert merged['codec']['table'][0] == 0
  # And a codec that the model lacks is left out.
  merged, stayed = state_lib.merge_params(
    {'encoder': fresh['encoder']}, loaded, 'stage3'
  )
  assert not stayed and set(merged) == {'encoder'}


def test_merge_params_names_what_does_not_fit():
  fresh = {'a': {'kernel': jnp.zeros((2, 2)), 'bias': jnp.zeros((2,))}}
  loaded = {'a': {'kernel': np.zeros((3, 2))}, 'b': {'kernel': np.zeros(1)}}
  with pytest.raises(ValueError) as error:
    state_lib.merge_params(fresh, loaded, 'other/checkpoint_7')
  for part in (
    'other/checkpoint_7',
    'a/bias: missing',
    'a/kernel: found (3, 2), expected (2, 2)',
    'b/kernel: not a parameter of this model',
    'INITIAL_CHECKPOINT',
  ):
    assert part in str(error.value)
