"""Checkpoints: all that touches Orbax.

Layout, readable by T5X's infer and eval:

  <folder>/checkpoint_<step>/state/ = {
    'target': parameters,
    'state': {'step': int32, 'param_states': optimizer state},
    'flax_mutables': what is carried but not trained (stage 2's teacher)}

Orbax casts a wrong dtype silently and its messages name no parameter, so
names, shapes and dtypes are compared here before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from btr_jax.data import records
from btr_jax.training import partitioning
from btr_jax.training import state as state_lib

ITEM = 'state'
PREFIX = 'checkpoint'
_STEP_FOLDER = re.compile(rf'{PREFIX}_(\d+)$')


class CheckpointError(ValueError):
  """A checkpoint that is missing, unreadable, or of another model."""


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes aside, syncs, renames: readers never see half a file."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def write_text(path: str | os.PathLike, text: str) -> None:
  """As `write_json`, for text."""
  with records.atomic_writer(path) as file:
    file.write(text)


def steps_in(folder: str | os.PathLike) -> list[int]:
  """Steps of the finished checkpoints in a folder, ascending.

  Orbax writes under another name and renames, so a folder with the final name
  is a whole checkpoint.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return []
  matches = (_STEP_FOLDER.match(path.name) for path in folder.iterdir())
  return sorted(int(match[1]) for match in matches if match)


def _nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  tree = {}
  for path, leaf in flat.items():
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = leaf
  return tree


def _named(tree: Any) -> dict[tuple[str, ...], Any]:
  return {
    partitioning.key_names(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def to_tree(state: state_lib.TrainState) -> dict[str, Any]:
  """The state as nested dicts of arrays, T5X's names at the top."""
  tree = {
    'target': _nest(_named(state.params)),
    'state': {
      'step': state.step,
      'param_states': _nest(_named(state.opt_state)),
    },
  }
  if state.mutables:
    tree['flax_mutables'] = _nest(_named(state.mutables))
  return tree


def from_tree(
  tree: Mapping[str, Any], abstract: state_lib.TrainState
) -> state_lib.TrainState:
  """The inverse of `to_tree`; the structure comes from `abstract`."""

  def fill(like, nested):
    flat = _named(nested)
    return jax.tree_util.tree_map_with_path(
      lambda path, _: flat[partitioning.key_names(path)], like
    )

  return state_lib.TrainState(
    step=tree['state']['step'],
    params=fill(abstract.params, tree['target']),
    opt_state=fill(abstract.opt_state, tree['state']['param_states']),
    mutables=fill(abstract.mutables, tree.get('flax_mutables', {})),
  )


def _metadata(folder: pathlib.Path, step: int) -> dict[tuple[str, ...], Any]:
  """Array metadata of a checkpoint by name."""
  path = folder / f'{PREFIX}_{step}' / ITEM
  try:
    # The handler itself: a Checkpointer would warn about a file that only
    # the folder above has.
    metadata = ocp.PyTreeCheckpointHandler().metadata(path)
    named = _named(getattr(metadata, 'tree', metadata))
  except Exception as error:  # Orbax's errors share no base class.
    raise _unreadable(path.parent, error) from error
  if not named:
    raise _unreadable(path.parent, 'it holds no arrays')
  return named


def _unreadable(path: pathlib.Path, error: Any) -> CheckpointError:
  return CheckpointError(
    f'Cannot read checkpoint {path}: {str(error).strip()[:500]}\n'
    'Expected a checkpoint that this trainer (or T5X with Orbax) wrote. '
    f'Remove {path} to go on from the one before it, or from the start.'
  )


def _check_fits(found, wanted, path: pathlib.Path) -> None:
  """Compares metadata with an abstract tree by name, shape and dtype."""
  problems = [
    f'{"/".join(name)}: missing' for name in sorted(set(wanted) - set(found))
  ]
  problems += [
    f'{"/".join(name)}: not expected'
    for name in sorted(set(found) - set(wanted))
  ]
  for name in sorted(set(wanted) & set(found)):
    have = (tuple(found[name].shape), np.dtype(found[name].dtype).name)
    want = (tuple(wanted[name].shape), np.dtype(wanted[name].dtype).name)
    if have != want:
      problems.append(f'{"/".join(name)}: found {have}, expected {want}')
  if problems:
    shown = '\n  '.join(problems[:20])
    raise CheckpointError(
      f'Checkpoint {path} is of another model or optimizer '
      f'({len(problems)} differences):\n  {shown}\n'
      'Use the gin file it was written with, or another MODEL_DIR.'
    )


def check_params(
  folder: str | os.PathLike, step: int, params: Mapping[str, Any]
) -> None:
  """Compares a checkpoint's parameters with a model's; reads none of them.

  Args:
    folder: a stage folder.
    step: which checkpoint.
    params: the model's parameters, or what eval_shape says of them.

  Raises:
    CheckpointError: parameters that are missing, left over, or of another
      shape or type; or no checkpoint that can be read.
  """
  folder = pathlib.Path(folder).absolute()
  found = {
    name: leaf
    for name, leaf in _metadata(folder, step).items()
    if name[0] == 'target'
  }
  _check_fits(found, _named({'target': params}), folder / f'{PREFIX}_{step}')


class Checkpoints:
  """The checkpoints of one stage folder; a context manager.

  Leaving the context waits for saves under way, also after an exception:
  otherwise Orbax would lose them.
  """

  def __init__(self, folder: str | os.PathLike, keep: int | None = 3):
    """Opens (and makes) a folder.

    Args:
      folder: the stage folder.
      keep: newest checkpoints to keep; None keeps all.

    Raises:
      ValueError: keep is below 1.
    """
    if keep is not None and keep < 1:
      raise ValueError(f'KEEP is {keep}; expected at least 1, or None for all.')
    # Orbax insists on absolute paths.
    self.folder = pathlib.Path(folder).absolute()
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        step_prefix=PREFIX,
        create=True,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
      ),
      item_handlers={ITEM: ocp.PyTreeCheckpointHandler()},
    )

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def close(self) -> None:
    """Waits for saves under way and frees Orbax's threads."""
    try:
      self._manager.wait_until_finished()
    finally:
      self._manager.close()

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None without any."""
    return max(steps_in(self.folder), default=None)

  def save(self, state: state_lib.TrainState, *, wait: bool = False) -> int:
    """Starts saving; returns the step. Saving a step twice is no error."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return step
    self._manager.save(
      step,
      args=ocp.args.Composite(**{ITEM: ocp.args.PyTreeSave(to_tree(state))}),
      force=True,
    )
    if wait:
      self._manager.wait_until_finished()
    return step

  def restore(
    self, abstract: state_lib.TrainState, step: int | None = None
  ) -> state_lib.TrainState:
    """Reads a checkpoint onto the mesh, whatever mesh wrote it.

    Args:
      abstract: of `state.abstract_state`.
      step: which; the newest by default.

    Returns:
      The state.

    Raises:
      CheckpointError: none there, unreadable, or of another model.
    """
    step = self.latest_step() if step is None else step
    path = self.folder / f'{PREFIX}_{step}'
    if step is None:
      raise CheckpointError(f'No checkpoint in {self.folder}.')
    tree = to_tree(abstract)
    _check_fits(_metadata(self.folder, step), _named(tree), path)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          **{
            ITEM: ocp.args.PyTreeRestore(
              item=tree,
              restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
            )
          }
        ),
      )[ITEM]
    except Exception as error:  # Orbax's errors share no base class.
      raise _unreadable(path, error) from error
    return from_tree(restored, abstract)


def load_params(
  folder: str | os.PathLike, step: int | None = None
) -> tuple[dict[str, Any], int]:
  """Reads the parameters alone, as numpy arrays on the host.

  Args:
    folder: a stage folder.
    step: which; the newest by default.

  Returns:
    (nested parameters, step).

  Raises:
    CheckpointError: none there, or unreadable.
  """
  folder = pathlib.Path(folder).absolute()
  step = max(steps_in(folder), default=None) if step is None else step
  if step is None:
    raise CheckpointError(f'No checkpoint in {folder}.')
  found = _metadata(folder, step)
  wanted = _nest(
    {
      name: jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))
      for name, leaf in found.items()
      if name[0] == 'target'
    }
  )
  path = folder / f'{PREFIX}_{step}'
  if not wanted:
    raise _unreadable(path, "it has no parameters under 'target'")
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      tree = checkpointer.restore(
        path / ITEM,
        args=ocp.args.PyTreeRestore(
          item=wanted,
          restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
          ),
          partial_restore=True,
        ),
      )
  except Exception as error:  # Orbax's errors share no base class.
    raise _unreadable(path, error) from error
  return tree['target'], step
