"""The state of a training run, and how it comes into being on the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from btr_jax.models import adapters
from btr_jax.training import partitioning

# Groups of parameters that a stage may add to (or drop from) the parameters
# it starts from: only the binary mode has a codec, and few runs have adapters.
STAGE_GROUPS = ('codec', adapters.GROUP)


class TrainState(struct.PyTreeNode):
  """What a checkpoint holds.

  Attributes:
    step: updates done, int32 [].
    params: parameters, float32.
    opt_state: Optax's state.
    mutables: variables that are carried but not trained; in stage 2 the
      teacher's parameters.
  """

  step: Any
  params: Any
  opt_state: Any
  mutables: Any


def abstract_variables(model: Any) -> dict[str, Any]:
  """Shapes and types of all that the model's initialisers make."""
  shapes = model.input_shapes(1)
  return jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )


def _mutable_names(variables: Mapping[str, Any]) -> list[str]:
  return sorted(
    name
    for name in variables
    if name != 'params' and not name.endswith('_axes')
  )


def abstract_state(
  model: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes, dtypes and shardings of the state; nothing is computed.

  Args:
    model: a model with `get_initial_variables` and `input_shapes`.
    optimizer: the optimizer.
    mesh: the mesh.

  Returns:
    A TrainState of ShapeDtypeStructs that carry NamedShardings.
  """
  with partitioning.mesh_context(mesh):
    variables = abstract_variables(model)

  def placed(tree, shardings):
    return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      tree,
      shardings,
    )

  params = variables['params']
  shardings = partitioning.param_shardings(variables['params_axes'], mesh)
  opt_state = jax.eval_shape(optimizer.init, params)
  return TrainState(
    step=jax.ShapeDtypeStruct(
      (), jnp.int32, sharding=partitioning.replicated(mesh)
    ),
    params=placed(params, shardings),
    opt_state=placed(
      opt_state,
      partitioning.like_params(opt_state, params, shardings, mesh),
    ),
    mutables={
      name: placed(
        variables[name],
        partitioning.param_shardings(variables[f'{name}_axes'], mesh),
      )
      for name in _mutable_names(variables)
    },
  )


def shardings_of(abstract: Any) -> Any:
  """The shardings that an abstract tree carries."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
  """Nested parameters to `a/b/c` names."""
  return {
    '/'.join(partitioning.key_names(path)): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def merge_params(
  fresh: Any, loaded: Mapping[str, Any], source: str
) -> tuple[Any, list[str]]:
  """Takes `loaded` into `fresh`, refusing what does not fit.

  Args:
    fresh: parameters (or ShapeDtypeStructs) of the model to be trained.
    loaded: parameters it starts from.
    source: where they come from, for the error.

  Returns:
    (parameters in the structure of `fresh`, names that stayed fresh). Only
    the codec and the adapters may stay fresh; a codec that the model lacks is
    left out, adapters that it lacks are added to the matrices.

  Raises:
    ValueError: names that are missing or left over, or other shapes.
  """
  if adapters.GROUP not in fresh:
    loaded = adapters.merged(loaded)
  wanted, given = flatten(fresh), flatten(loaded)

  def optional(name):
    return name.split('/')[0] in STAGE_GROUPS

  missing = sorted(set(wanted) - set(given))
  surplus = sorted(
    name for name in set(given) - set(wanted) if not optional(name)
  )
  # The parts of another codec say nothing about this one.
  changed = {
    name.split('/')[0]
    for name in wanted
    if optional(name)
    and (
      name not in given or tuple(wanted[name].shape) != tuple(given[name].shape)
    )
  }
  stays_fresh = [name for name in wanted if name.split('/')[0] in changed]
  problems = [f'{n}: missing' for n in missing if n not in stays_fresh]
  problems += [f'{n}: not a parameter of this model' for n in surplus]
  problems += [
    f'{name}: found {tuple(given[name].shape)}, '
    f'expected {tuple(wanted[name].shape)}'
    for name in sorted(set(wanted) & set(given))
    if name not in stays_fresh
    and tuple(wanted[name].shape) != tuple(given[name].shape)
  ]
  if problems:
    shown = '\n  '.join(problems[:20])
    raise ValueError(
      f'The parameters of {source} do not fit the model:\n  {shown}\n'
      f'({len(problems)} differences.) Use the gin file that they were '
      'trained with, or another INITIAL_CHECKPOINT.'
    )

  def choose(path, leaf):
    name = '/'.join(partitioning.key_names(path))
    return leaf if name in stays_fresh else given[name]

  merged = jax.tree_util.tree_map_with_path(choose, fresh)
  return merged, stays_fresh


def init_params(model: Any, abstract: TrainState, seed: int) -> Any:
  """Fresh parameters, made where they will live."""
  shapes = model.input_shapes(1)

  def init(rng):
    return model.get_initial_variables(rng, shapes)['params']

  return jax.jit(init, out_shardings=shardings_of(abstract.params))(
    jax.random.key(seed)
  )


def place(tree: Any, abstract: Any) -> Any:
  """Copies host or device arrays to the shardings and dtypes of `abstract`."""

  def put(leaf, like):
    if isinstance(leaf, jax.Array) and leaf.dtype == like.dtype:
      if leaf.sharding == like.sharding:
        return leaf.copy()
    return partitioning.put_global(
      np.array(partitioning.to_host(leaf), dtype=like.dtype), like.sharding
    )

  return jax.tree.map(put, tree, abstract)


def create_state(
  abstract: TrainState,
  optimizer: optax.GradientTransformation,
  params: Any,
  mutables: Mapping[str, Any],
) -> TrainState:
  """The state before the first step.

  Args:
    abstract: of `abstract_state`.
    optimizer: the optimizer.
    params: initial parameters, numpy or jax.
    mutables: initial mutables, e.g. {'teacher': parameters}.

  Returns:
    A TrainState on the mesh that shares no buffer with its inputs.

  Raises:
    ValueError: the mutables are not those of the model.
  """
  if set(mutables) != set(abstract.mutables):
    raise ValueError(
      f'The model carries mutables {sorted(abstract.mutables)}; '
      f'found {sorted(mutables)}.'
    )
  params = place(params, abstract.params)
  opt_state = jax.jit(
    optimizer.init, out_shardings=shardings_of(abstract.opt_state)
  )(params)
  return TrainState(
    step=place(np.zeros((), np.int32), abstract.step),
    params=params,
    opt_state=opt_state,
    mutables=place(dict(mutables), abstract.mutables),
  )
