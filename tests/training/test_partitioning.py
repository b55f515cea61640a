"""The mesh, and where things live on it."""

from __future__ import annotations

from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from btr_jax.training import partitioning
from btr_jax.training import state as state_lib


def test_mesh_takes_the_rest():
  devices = jax.devices()
  mesh = partitioning.make_mesh((-1, 1))
  assert dict(mesh.shape) == {'data': len(devices), 'model': 1}
  mesh = partitioning.make_mesh((1, -1), devices[:1])
  assert dict(mesh.shape) == {'data': 1, 'model': 1}


@pytest.mark.parametrize('shape', [(3, 1), (0, 1), (-1, -1), (-1, 3), (1,)])
def test_mesh_refuses_other_shapes(shape):
  with pytest.raises(ValueError, match='MESH is .*product is the number'):
    partitioning.make_mesh(shape, jax.devices()[:1] * 4)


def test_batch_size_must_divide(square_mesh):
  partitioning.check_batch_size(8, square_mesh, 2)
  with pytest.raises(ValueError, match='BATCH_SIZE is 6; .* multiple of 4 .*8'):
    partitioning.check_batch_size(6, square_mesh, 2)
  with pytest.raises(ValueError, match='BATCH_SIZE is 0'):
    partitioning.check_batch_size(0, square_mesh, 1)


def test_logical_constraints_act(square_mesh):
  # Under `with mesh:` they would silently do nothing.
  @jax.jit
  def constrain(x):
    return flax_partitioning.with_sharding_constraint(x, ('batch', 'mlp'))

  with partitioning.mesh_context(square_mesh):
    y = constrain(jnp.ones((4, 4)))
  assert y.sharding.spec == PartitionSpec('data', 'model')


def test_state_is_sharded_by_logical_axes(square_mesh, table_model):
  abstract = state_lib.abstract_state(
    table_model, optax.adam(1e-3), square_mesh
  )
  spec = abstract.params['token_embedder']['embedding'].sharding.spec
  assert spec == PartitionSpec('model', None)
  moments = abstract.opt_state[0]
  assert moments.mu['head']['kernel'].sharding.spec == PartitionSpec(
    None, 'model'
  )
  assert moments.count.sharding.spec == PartitionSpec()


def test_factored_state_is_replicated(square_mesh, make_table_model):
  model = make_table_model(embed=256)
  optimizer = optax.adafactor(1e-3, min_dim_size_to_factor=8)
  abstract = state_lib.abstract_state(model, optimizer, square_mesh)
  rows = {
    '/'.join(partitioning.key_names(path)): leaf.sharding.spec
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.opt_state)
    if 'v_row' in partitioning.key_names(path)
  }
  assert rows and set(rows.values()) == {PartitionSpec()}


def test_unknown_logical_axis(one_device_mesh):
  axes = {
    'kernel_axes': flax_partitioning.AxisMetadata(
      names=PartitionSpec('embed', 'wings')
    )
  }
  with pytest.raises(ValueError, match="no rule for \\['wings'\\]"):
    partitioning.param_shardings(axes, one_device_mesh)


def test_shard_batch_spreads_examples(square_mesh):
  batch = {'question_tokens': np.arange(12, dtype=np.int32).reshape(4, 3)}
  placed = partitioning.shard_batch(batch, square_mesh)['question_tokens']
  assert placed.sharding.spec == PartitionSpec('data')
  assert placed.addressable_shards[0].data.shape == (2, 3)
  np.testing.assert_array_equal(
    partitioning.to_host(placed), batch['question_tokens']
  )
