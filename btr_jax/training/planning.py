"""What a stage of training will cost, before anything is allocated.

Shapes and shardings come from `jax.eval_shape`, the program from tracing
ShapeDtypeStructs, and memory and operations of a device from the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import math
from typing import Any

import jax
from jax.extend import core as jax_core
from jax.sharding import Mesh

from btr_jax import config as config_lib
from btr_jax.models import model as model_lib
from btr_jax.training import optimizers, partitioning, stages
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib


def device_bytes(tree: Any) -> int:
  """Bytes of an abstract tree on each device of its mesh."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def total_bytes(tree: Any) -> int:
  """Bytes of an abstract tree, every array counted once."""
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def whole_on_each(tree: Any, axis: str = 'model') -> dict[str, int]:
  """Arrays that are not spread over an axis of the mesh: name to bytes."""
  return {
    name: leaf.size * leaf.dtype.itemsize
    for name, leaf in state_lib.flatten(tree).items()
    if axis not in jax.tree.leaves(tuple(leaf.sharding.spec))
  }


def _inner_programs(equation: Any) -> Iterator[tuple[Any, int]]:
  """Programs inside an operation, and how often each runs."""
  times = equation.params.get('length', 1)  # Of a scan.
  for value in equation.params.values():
    for inner in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(inner, (jax_core.Jaxpr, jax_core.ClosedJaxpr)):
        yield getattr(inner, 'jaxpr', inner), times


def matrix_flops(program: Any) -> int:
  """Operations in the matrix products of a jaxpr, over all devices.

  Unlike the compiler's figure it counts every round of a scan (microbatches),
  and leaves out what is no matrix product.

  Args:
    program: a jaxpr.

  Returns:
    Multiplications and additions.
  """
  total = 0
  for equation in program.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      summed = math.prod(left[axis] for axis in contracted)
      total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
    for inner, times in _inner_programs(equation):
      total += times * matrix_flops(inner)
  return total


def kept_bytes(model: model_lib.BtrModel, abstract: Any) -> int:
  """What the gradient keeps of the forward pass, per example.

  Taken from the traced program, so that it knows `remat` but no compiler: the
  bytes by which one more example makes the backward function larger.

  Args:
    model: of the stage.
    abstract: its abstract state.

  Returns:
    Bytes; the copies of parameters in another type are not among them.
  """

  def kept(batch_size):
    batch = {
      name: jax.ShapeDtypeStruct(shape, _dtype_of(name))
      for name, shape in model.input_shapes(batch_size).items()
    }

    def backward(params, mutables, batch):
      rng = jax.random.key(0)
      return jax.vjp(
        lambda p: model.loss_fn(p, batch, rng, mutables, 0)[0], params
      )[1]

    found = jax.eval_shape(backward, abstract.params, abstract.mutables, batch)
    return total_bytes(found)

  return kept(2) - kept(1)


def _dtype_of(feature: str) -> str:
  return 'float32' if feature.endswith('_weights') else 'int32'


def abstract_batch(
  model: model_lib.BtrModel, batch_size: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """A global batch of the model's features, without its values."""
  sharding = partitioning.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(shape, _dtype_of(name), sharding=sharding)
    for name, shape in model.input_shapes(batch_size).items()
  }


def plan_stage(
  stage: int,
  *,
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  recipe: recipe_lib.Recipe,
  optimizer: optimizers.OptimizerConfig,
  mesh: Mesh,
  compiled: bool = True,
) -> dict[str, Any]:
  """Memory and operations of one update.

  Args:
    stage: 1, 2 or 3.
    reader: the architecture and codec.
    limits: lengths of the inputs.
    recipe: batch size and microbatches.
    optimizer: what state it keeps.
    mesh: the devices; they may be virtual ones of the CPU.
    compiled: ask the compiler as well, which takes minutes for large readers.

  Returns:
    JSON values; `bytes` and `flops` are per device where nothing else is said.

  Raises:
    ValueError: a mesh or batch that does not divide.
  """
  partitioning.check_batch_size(recipe.batch_size, mesh, recipe.microbatches)
  partitioning.check_model_axis(reader, mesh.shape['model'])
  model, transform, schedule = stages.model_and_optimizer(
    stage, reader, limits, recipe, optimizer
  )
  abstract = state_lib.abstract_state(model, transform, mesh)
  batch = abstract_batch(model, recipe.batch_size, mesh)
  step = step_lib.make_train_step(
    model,
    transform,
    schedule,
    abstract,
    mesh,
    seed=recipe.seed,
    microbatches=recipe.microbatches,
  )
  traced = step.trace(abstract, batch)
  flops = matrix_flops(traced.jaxpr.jaxpr)
  at_once = recipe.batch_size // recipe.microbatches // mesh.shape['data']
  plan = {
    'stage': stage,
    'mesh': dict(mesh.shape),
    'batch_size': recipe.batch_size,
    'microbatches': recipe.microbatches,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
    'bytes': {
      'parameters': device_bytes(abstract.params),
      'optimizer': device_bytes(abstract.opt_state),
      'carried': device_bytes(abstract.mutables),
      'batch': device_bytes(batch),
      'gradients': device_bytes(abstract.params),
      # As if `model` spread none of it.
      'kept': at_once * kept_bytes(model, abstract),
    },
    'total_bytes': {
      'parameters': total_bytes(abstract.params),
      'optimizer': total_bytes(abstract.opt_state),
      'carried': total_bytes(abstract.mutables),
    },
    'matrix_flops_all_devices': flops,
    'matrix_flops': flops // mesh.size,
  }
  if compiled:
    with partitioning.mesh_context(mesh):
      plan['compiled'] = _ask_compiler(traced.lower())
  return plan


def _ask_compiler(lowered: jax.stages.Lowered) -> Mapping[str, Any]:
  """Memory and operations of a device, as its compiler tells them."""
  backend = jax.default_backend()
  program = lowered.compile()
  memory, cost = program.memory_analysis(), program.cost_analysis()
  arguments = memory.argument_size_in_bytes
  # What is donated is given back in the same place.
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return {
    'backend': backend,
    'arguments': arguments,
    'outputs': outputs,
    'temporaries': memory.temp_size_in_bytes,
    'peak': arguments + outputs + memory.temp_size_in_bytes,
    'flops': cost['flops'],
    'bytes_accessed': cost['bytes accessed'],
  }
