"""The device mesh, and where parameters, optimizer state and batches live.

Two axes as in T5X: `data` splits the examples, `model` the wide side of the
matrices. The mesh has axes of type Auto: XLA chooses the layout of everything
that the logical constraints leave open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import Any

from flax import core
from flax.linen import partitioning as flax_partitioning
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from btr_jax import axes as axes_lib
from btr_jax import config as config_lib


def make_mesh(
  shape: Sequence[int] = (-1, 1), devices: Sequence[Any] | None = None
) -> Mesh:
  """Arranges the devices as (data, model).

  Args:
    shape: devices along `data` and `model`; one of them may be -1, which takes
      all devices that the other leaves.
    devices: the devices; all of them by default.

  Returns:
    The mesh, with axes of type Auto.

  Raises:
    ValueError: the shape does not use all devices exactly once.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  count, shape = devices.size, tuple(shape)
  named = [size for size in shape if size != -1]
  rest = count // int(np.prod(named)) if all(n > 0 for n in named) else 0
  resolved = tuple(rest if size == -1 else size for size in shape)
  if len(shape) != 2 or len(named) < 1 or int(np.prod(resolved)) != count:
    raise ValueError(
      f'MESH is {shape}; expected (data, model) whose product is the number '
      f'of devices, {count}. One of the two may be -1: try (-1, 1).'
    )
  # Mesh() gives Auto axes; jax.make_mesh() would give Explicit ones, under
  # which Flax's logical constraints raise.
  return Mesh(devices.reshape(resolved), axes_lib.MESH_AXES)


@contextlib.contextmanager
def mesh_context(mesh: Mesh) -> Iterator[None]:
  """Within it, logical constraints inside jit act on `mesh`.

  `with mesh:` alone would leave every logical constraint a silent no-op: Flax
  asks for the abstract mesh, which only `jax.set_mesh` sets.
  """
  rules = axes_lib.LOGICAL_AXIS_RULES
  with jax.set_mesh(mesh), flax_partitioning.axis_rules(rules):
    yield


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int) -> None:
  """Raises ValueError unless the batch divides over mesh and microbatches."""
  parts = mesh.shape['data'] * microbatches
  if batch_size < 1 or batch_size % parts:
    raise ValueError(
      f'BATCH_SIZE is {batch_size}; expected a multiple of {parts} '
      f'({mesh.shape["data"]} devices along data x {microbatches} '
      f'microbatches): try {max(1, -(-batch_size // parts)) * parts}, or '
      'change MESH or MICROBATCHES.'
    )


def check_model_axis(config: config_lib.ReaderConfig, size: int) -> None:
  """Raises ValueError unless `size` devices can share heads, mlp and vocab."""
  spread = {
    name: getattr(config, name)
    for name in ('num_heads', 'mlp_dim', 'vocab_size')
  }
  if all(value % size == 0 for value in spread.values()):
    return
  fitting = [
    number
    for number in range(1, config.num_heads + 1)
    if all(value % number == 0 for value in spread.values())
  ]
  raise ValueError(
    f'MESH has {size} devices along model; expected a number that divides '
    f'{", ".join(f"{name}={value}" for name, value in spread.items())}: one '
    f'of {", ".join(map(str, fitting))}. Try --gin.MESH="(-1, {fitting[-1]})", '
    'or another VOCAB_SIZE.'
  )


def data_shard(
  devices: np.ndarray, process_index: int | None = None
) -> tuple[int, int]:
  """Which share of every batch a process reads.

  Processes whose devices stand in the same rows of the mesh (a `model` axis
  that spans hosts) read the same share.

  Args:
    devices: of the mesh, [data, model].
    process_index: of the process; this one by default.

  Returns:
    (index of the share, number of shares).

  Raises:
    ValueError: the rows of two processes overlap in part.
  """
  own = jax.process_index() if process_index is None else process_index
  rows: dict[int, set[int]] = {}
  for row, in_row in enumerate(devices):
    for device in in_row:
      rows.setdefault(device.process_index, set()).add(row)
  shares = sorted({tuple(sorted(found)) for found in rows.values()})
  sizes = {len(share) for share in shares}
  if len(sizes) != 1 or sum(map(len, shares)) != len(devices):
    per_process = devices.size // len(rows)
    raise ValueError(
      f'MESH is {devices.shape} over {len(rows)} processes of {per_process} '
      'devices; expected a model axis that divides the devices of a process, '
      f'or a multiple of them: 1, {per_process} or {2 * per_process}, say.'
    )
  return shares.index(tuple(sorted(rows[own]))), len(shares)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Examples spread over `data`."""
  return NamedSharding(mesh, PartitionSpec('data'))


def shard_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Puts this process's share of a batch on its devices.

  Args:
    batch: numpy arrays, the examples of this process along the first axis.
    mesh: the mesh.

  Returns:
    Global arrays, examples spread over `data`.
  """
  sharding = batch_sharding(mesh)
  _, shares = data_shard(mesh.devices)

  def put(value):
    shape = (value.shape[0] * shares,) + value.shape[1:]
    return jax.make_array_from_process_local_data(sharding, value, shape)

  return {name: put(np.asarray(value)) for name, value in batch.items()}


def put_global(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Puts an array that every process holds whole on the mesh."""
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  # device_put would send the whole array round to compare it.
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: np.array(array[index])
  )


def to_host(array: Any) -> np.ndarray:
  """A global array as numpy on every host, also if others hold parts of it."""
  if getattr(array, 'is_fully_addressable', True) or array.is_fully_replicated:
    return np.asarray(array)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def param_shardings(params_axes: Mapping[str, Any], mesh: Mesh) -> Any:
  """Shardings of parameters from their logical axes.

  Args:
    params_axes: the `params_axes` collection of the model.
    mesh: the mesh.

  Returns:
    NamedShardings, in the structure of the parameters.

  Raises:
    ValueError: an axis that no rule names.
  """
  known = {name for name, _ in axes_lib.LOGICAL_AXIS_RULES}

  def to_sharding(names):
    unknown = [name for name in names if name not in known]
    if unknown:
      raise ValueError(
        f'Parameter with logical axes {tuple(names)}: no rule for {unknown}; '
        'add it to LOGICAL_AXIS_RULES in btr_jax/axes.py.'
      )
    return NamedSharding(
      mesh,
      flax_partitioning.logical_to_mesh_axes(
        tuple(names), axes_lib.LOGICAL_AXIS_RULES
      ),
    )

  names = core.unfreeze(flax_partitioning.get_axis_names(params_axes))
  return jax.tree.map(
    to_sharding, names, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )


def key_names(path: Sequence[Any]) -> tuple[str, ...]:
  """The names along a path of `jax.tree_util`."""
  return tuple(
    str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key))))
    for key in path
  )


def like_params(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
  """Shardings of an optimizer state: as the parameter each leaf belongs to.

  A leaf belongs to the parameter whose path ends its own, if they have the
  same shape (Adam's moments do); what belongs to none (counts, Adafactor's
  factors) is replicated.

  Args:
    tree: abstract optimizer state.
    params: abstract parameters.
    shardings: their shardings.
    mesh: the mesh.

  Returns:
    NamedShardings, in the structure of `tree`.
  """
  known = {}
  for (path, leaf), sharding in zip(
    jax.tree_util.tree_leaves_with_path(params),
    jax.tree.leaves(shardings),
    strict=True,
  ):
    known[key_names(path)] = (leaf.shape, sharding)

  def find(path, leaf):
    names = key_names(path)
    for start in range(len(names)):
      shape, sharding = known.get(names[start:], (None, None))
      if shape == leaf.shape:
        return sharding
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(find, tree)
