"""Meshes, sharding, remat, bfloat16 and accumulation with the real model."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import model as model_lib
from btr_jax.training import optimizers, partitioning, planning, sources
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib

READER = config_lib.ReaderConfig(
  vocab_size=228,
  embed_dim=16,
  num_heads=4,
  head_dim=4,
  mlp_dim=16,
  num_encoder_layers=2,
  num_decoder_layers=1,
  split_layer=1,
  dropout_rate=0.1,
)
BASE = config_lib.ReaderConfig(
  vocab_size=32128,
  embed_dim=768,
  num_heads=12,
  head_dim=64,
  mlp_dim=2048,
  num_encoder_layers=12,
  num_decoder_layers=12,
  split_layer=9,
)
LARGE = dataclasses.replace(
  BASE,
  embed_dim=1024,
  num_heads=16,
  mlp_dim=2816,
  num_encoder_layers=24,
  num_decoder_layers=24,
  split_layer=20,
)
ADAMW = optimizers.OptimizerConfig(schedule='constant')
ADAFACTOR = dataclasses.replace(ADAMW, name='adafactor')

# Parameters that every device holds whole, and why they may be.
WHOLE = {
  'scale': 'a norm: one number per dimension of the residual stream',
  'codec/deviation': 'one number per dimension',
  'codec/level': 'one number per bit',
  'codec/rotation': 'embed x bits: 0.2 % of base; packing needs all bits',
  'codec/recovery/bias': 'one number per dimension',
  'codec/recovery/kernel': 'bits x embed: 0.2 % of base, in training only',
}

pytestmark = pytest.mark.usefixtures('quick_compilation')


def mesh_of(shape):
  count = int(np.prod(shape))
  if len(jax.devices()) < count:
    pytest.skip(f'needs {count} devices; tests/conftest.py makes four on CPU')
  return partitioning.make_mesh(shape, jax.devices()[:count])


@pytest.fixture(scope='module')
def train(prepared_folder, toy_limits):
  """A function: losses of some steps, and the state after them."""
  source = sources.NpzSource(str(prepared_folder))

  def run(shape, steps, reader=READER, optimizer=ADAMW, microbatches=1):
    mesh = mesh_of(shape)
    model = model_lib.BtrModel(reader, toy_limits, stage=1)
    schedule = optimizers.make_schedule(optimizer, 1e-3, 0, 100)
    transform = optimizers.make_optimizer(optimizer, schedule)
    abstract = state_lib.abstract_state(model, transform, mesh)
    with partitioning.mesh_context(mesh):
      params = state_lib.init_params(model, abstract, 0)
      state = state_lib.create_state(abstract, transform, params, {})
    step = step_lib.make_train_step(
      model,
      transform,
      schedule,
      abstract,
      mesh,
      seed=0,
      microbatches=microbatches,
    )
    losses = []
    batches = source.batches('train', toy_limits, 8, seed=0)
    for batch in itertools.islice(batches, steps):
      state, metrics = step(state, partitioning.shard_batch(batch, mesh))
      losses.append(float(metrics['loss'].compute()))
    return losses, state

  return run


@pytest.fixture(scope='module')
def one_device(train):
  """Ten steps on one device."""
  losses, state = train((1, 1), 10)
  assert losses[-1] < losses[0]
  return losses, state_lib.flatten(state.params)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(4, 1), (2, 2), (1, 4)])
def test_meshes_give_the_same_losses(train, one_device, shape):
  """Dropout included: its bits do not depend on the mesh."""
  expected, params = one_device
  losses, state = train(shape, 10)
  np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
  for name, leaf in state_lib.flatten(state.params).items():
    np.testing.assert_allclose(
      np.asarray(leaf), np.asarray(params[name]), rtol=0, atol=1e-4
    )


@pytest.mark.slow
def test_adafactor_on_a_mesh(train):
  expected, state = train((1, 1), 5, optimizer=ADAFACTOR)
  losses, _ = train((2, 2), 5, optimizer=ADAFACTOR)
  np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
  assert losses[-1] < losses[0]
  leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
  assert any('v_row' in partitioning.key_names(path) for path, _ in leaves)


@pytest.mark.slow
def test_accumulation_changes_no_loss(train):
  reader = dataclasses.replace(READER, dropout_rate=0.0)
  expected, _ = train((2, 2), 4, reader)
  losses, _ = train((2, 2), 4, reader, microbatches=2)
  np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


# ----------------------------------------------------------------- constraints


def constraints(model, mesh, limits):
  """What finds the specs of constrained activations in the loss's program."""
  abstract = state_lib.abstract_state(
    model, optimizers.make_optimizer(ADAMW, lambda step: 1e-3), mesh
  )
  batch = planning.abstract_batch(model, 8, mesh)

  def loss(params, batch):
    return model.loss_fn(params, batch, jax.random.key(0), abstract.mutables)[0]

  found = []

  def visit(program):
    for equation in program.eqns:
      if equation.primitive.name == 'sharding_constraint':
        spec = equation.params['sharding'].spec
        # Parameters, which are constrained as well, have fewer axes.
        if len(equation.outvars[0].aval.shape) > 2:
          found.append(tuple(spec))
      for inner, _ in planning._inner_programs(equation):
        visit(inner)

  return found, visit, loss, abstract, batch


def test_activations_are_constrained_at_every_joint(toy_limits):
  mesh = mesh_of((2, 2))
  model = model_lib.BtrModel(READER, toy_limits, stage=1)
  found, visit, loss, abstract, batch = constraints(model, mesh, toy_limits)
  with partitioning.mesh_context(mesh):
    visit(jax.make_jaxpr(loss)(abstract.params, batch).jaxpr)
  specs = list(found)
  # Per encoder layer: query, key, value, their mixture, the hidden layer, the
  # residual stream; per decoder layer twice the first four.
  per_encoder, per_decoder = 6, 10
  # Into the lower and the upper layers, the fused memory, into the decoder,
  # the logits.
  others = 5
  assert len(specs) == (
    per_encoder * READER.num_encoder_layers
    + per_decoder * READER.num_decoder_layers
    + others
  )
  assert all(spec[0] == 'data' for spec in specs)
  over_heads = [spec for spec in specs if spec[1:2] == ('model',)]
  assert len(over_heads) == 3 * READER.num_encoder_layers + 6
  over_width = [spec for spec in specs if spec[2:3] == ('model',)]
  # The mixtures, the hidden layers, the logits.
  assert len(over_width) == 2 * READER.num_encoder_layers + 3 + 1
  # Without the context they would all be silently absent.
  found.clear()
  visit(jax.make_jaxpr(loss)(abstract.params, batch).jaxpr)
  assert not found


def test_constraints_reach_the_compiler(toy_limits):
  """In what the compiler is given, forward and backward."""
  mesh = mesh_of((2, 2))
  model = model_lib.BtrModel(READER, toy_limits, stage=1)
  transform = optimizers.make_optimizer(ADAMW, lambda step: 1e-3)
  abstract = state_lib.abstract_state(model, transform, mesh)
  step = step_lib.make_train_step(
    model, transform, lambda step: 1e-3, abstract, mesh, seed=0
  )
  traced = step.trace(abstract, planning.abstract_batch(model, 8, mesh))
  with partitioning.mesh_context(mesh):
    text = traced.lower().as_text()
  assert text.count('sdy.sharding_constraint') >= 2 * (6 * 2 + 10 + 5)


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize('reader', [BASE, LARGE], ids=['base', 'large'])
@pytest.mark.parametrize('codec', ['residual', 'calibrated'])
def test_no_parameter_is_whole_by_accident(reader, codec):
  """Nothing is computed: `eval_shape` knows shapes, axes and shardings."""
  reader = dataclasses.replace(reader, codec=config_lib.CodecConfig(codec))
  mesh = mesh_of((1, 4))
  model = model_lib.BtrModel(reader, config_lib.InputLimits(), stage=3)
  transform = optimizers.make_optimizer(ADAMW, lambda step: 1e-3)
  abstract = state_lib.abstract_state(model, transform, mesh)
  whole = planning.whole_on_each(abstract.params)
  unexplained = [
    name
    for name in whole
    if name not in WHOLE and name.rpartition('/')[2] not in WHOLE
  ]
  assert not unexplained
  # All four devices together hold hardly more than one copy.
  params = abstract.params
  assert 4 * planning.device_bytes(params) < 1.02 * planning.total_bytes(params)
  moments = abstract.opt_state
  assert 4 * planning.device_bytes(moments) < 1.02 * planning.total_bytes(
    moments
  )


def test_the_report_would_find_a_whole_parameter(toy_limits):
  mesh = mesh_of((1, 4))
  model = model_lib.BtrModel(READER, toy_limits, stage=1)
  transform = optimizers.make_optimizer(ADAMW, lambda step: 1e-3)
  params = dict(state_lib.abstract_state(model, transform, mesh).params)
  name = 'token_embedder/embedding'
  assert name not in planning.whole_on_each(params)
  table = params['token_embedder']['embedding']
  params['token_embedder'] = {
    'embedding': jax.ShapeDtypeStruct(
      table.shape,
      table.dtype,
      sharding=NamedSharding(mesh, PartitionSpec(None, None)),
    )
  }
  assert planning.whole_on_each(params)[name] == 228 * 16 * 4


def test_bytes_per_device():
  mesh = mesh_of((2, 2))
  leaf = jax.ShapeDtypeStruct(
    (8, 6),
    'float32',
    sharding=NamedSharding(mesh, PartitionSpec(None, 'model')),
  )
  assert planning.total_bytes({'a': leaf}) == 8 * 6 * 4
  assert planning.device_bytes({'a': leaf}) == 8 * 3 * 4


@pytest.mark.parametrize('size, fitting', [(3, '1, 2, 4'), (8, '1, 2, 4')])
def test_mesh_must_divide_the_heads(size, fitting):
  with pytest.raises(
    ValueError,
    match=f'MESH has {size} devices along model.*num_heads=4.*one of {fitting}',
  ):
    partitioning.check_model_axis(READER, size)
  partitioning.check_model_axis(READER, 4)


# --------------------------------------------------------- remat and precision


def loss_program(reader, limits, stage):
  """The loss of a stage as a function of its parameters, and those."""
  model = model_lib.BtrModel(reader, limits, stage=stage)
  params = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), model.input_shapes()
    )['params']
  )
  batch = {
    name: jnp.ones(shape, 'float32' if name.endswith('weights') else 'int32')
    for name, shape in model.input_shapes(4).items()
  }
  mutables = {'teacher': params} if stage == 2 else None
  return lambda p: model.loss_fn(p, batch, jax.random.key(1), mutables)[
    0
  ], params


@pytest.mark.parametrize('stage', [1, 3])
def test_remat_keeps_less(toy_limits, stage):
  def kept(remat):
    reader = dataclasses.replace(
      READER, num_encoder_layers=8, num_decoder_layers=4, remat=remat
    )
    loss, params = loss_program(reader, toy_limits, stage)
    # What the backward function carries, its parameters among it.
    backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)
    )

  nothing, minimal, full = map(kept, config_lib.REMATS)
  assert full < minimal < nothing
  assert full < 0.5 * nothing


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['minimal', 'full'])
def test_remat_changes_no_name_and_no_loss(train, one_device, remat):
  """With dropout: the second computation drops what the first one did."""
  expected, params = one_device
  losses, state = train((1, 1), 4, dataclasses.replace(READER, remat=remat))
  np.testing.assert_allclose(losses, expected[:4], rtol=0, atol=1e-5)
  assert set(state_lib.flatten(state.params)) == set(params)


def test_remat_is_no_part_of_the_reader():
  full = dataclasses.replace(READER, remat='full')
  assert full.to_dict() == READER.to_dict()
  assert config_lib.ReaderConfig.from_dict(full.to_dict()) == READER
  with pytest.raises(ValueError, match="REMAT is 'some'; expected one of none"):
    dataclasses.replace(READER, remat='some')


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_float32(train, one_device):
  reader = dataclasses.replace(READER, dtype='bfloat16')
  losses, state = train((1, 1), 4, reader)
  np.testing.assert_allclose(losses, one_device[0][:4], rtol=2e-2)
  assert losses != one_device[0][:4]
  kept = jax.tree.leaves((state.params, state.opt_state))
  assert {leaf.dtype.name for leaf in kept} == {'float32', 'int32'}


def test_bfloat16_products(toy_limits):
  """All matrix products but those of the losses, forward and backward."""
  reader = dataclasses.replace(READER, dtype='bfloat16')
  loss, params = loss_program(reader, toy_limits, 1)
  found = []

  def visit(program):
    for equation in program.eqns:
      if equation.primitive.name == 'dot_general':
        found.append({var.aval.dtype.name for var in equation.invars})
      for inner, _ in planning._inner_programs(equation):
        visit(inner)

  visit(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  assert len(found) > 60
  assert all(dtypes == {'bfloat16'} for dtypes in found)
