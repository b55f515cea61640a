"""T5X's checkpoints, without T5X.

Published ones have T5X's first layout: `checkpoint`, a flax msgpack file
{'version', 'optimizer': {'target', 'state'}} in which large arrays are
TensorStore specs, and a zarr folder for each of those. Newer runs write Orbax
(`checkpoint_<step>/state`), as this project's trainer does. Both are read; the
second is written.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from flax import serialization
import ml_dtypes
import numpy as np
import tensorstore

from btr_jax.interop.checkpoint import ConversionError
from btr_jax.models import model as model_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import state as state_lib

LEGACY_FILE = 'checkpoint'
_STEP = re.compile(rf'{checkpoints_lib.PREFIX}_(\d+)$')
# Version 3 writes bfloat16 as such; version 2 wrote its bits as uint16.
_VERSIONS = (2, 3)
_SPEC_KEYS = {'driver', 'kvstore', 'metadata'}


def is_checkpoint(path: pathlib.Path) -> bool:
  """Whether a path looks like a T5X checkpoint, or a folder of them."""
  if path.is_file():
    return path.name == LEGACY_FILE or bool(_STEP.search(path.name))
  return (
    (path / LEGACY_FILE).is_file()
    or (path / checkpoints_lib.ITEM).is_dir()
    or bool(checkpoints_lib.steps_in(path))
  )


def locate(path: pathlib.Path, step: int | None) -> pathlib.Path:
  """The checkpoint that a path and a step mean.

  Args:
    path: a checkpoint, its msgpack file, or a folder of checkpoints.
    step: which of a folder; the newest by default.

  Returns:
    `checkpoint_<step>`, or a msgpack file.

  Raises:
    ConversionError: there is none, or not of that step.
  """
  if path.is_file():
    return path
  if (path / LEGACY_FILE).is_file() or (path / checkpoints_lib.ITEM).is_dir():
    return path
  steps = checkpoints_lib.steps_in(path)
  if not steps or (step is not None and step not in steps):
    raise ConversionError(
      f'{path} has checkpoints of steps {steps}; '
      f'{"expected at least one" if step is None else f"asked for {step}"}.'
    )
  step = steps[-1] if step is None else step
  return path / f'{checkpoints_lib.PREFIX}_{step}'


def read(
  path: pathlib.Path, step: int | None = None
) -> tuple[dict[str, np.ndarray], int]:
  """The parameters of a checkpoint; optimizer states are not read.

  Args:
    path: see `locate`.
    step: see `locate`.

  Returns:
    (parameters by 'encoder/layers_0/...' name, step).

  Raises:
    ConversionError: none there, unreadable, incomplete, or not T5X's.
  """
  path = locate(path, step)
  if path.is_dir() and (path / LEGACY_FILE).is_file():
    path = path / LEGACY_FILE
  if path.is_file():
    return _read_legacy(path)
  match = _STEP.search(path.name)
  if match is None:
    raise ConversionError(
      f'{path} is named {path.name!r}; an Orbax checkpoint of T5X is named '
      f'{checkpoints_lib.PREFIX}_<step>. Give it back its name.'
    )
  params, step = checkpoints_lib.load_params(path.parent, int(match[1]))
  flat = {
    name: np.asarray(value) for name, value in state_lib.flatten(params).items()
  }
  return flat, step


def _read_legacy(path: pathlib.Path) -> tuple[dict[str, np.ndarray], int]:
  content = path.read_bytes()
  if content.startswith(b'model_checkpoint_path'):
    raise ConversionError(
      f'{path} is a TensorFlow checkpoint (Mesh TensorFlow T5), not one of '
      'T5X. Convert it by t5x.scripts.convert_tf_checkpoint first.'
    )
  try:
    contents = serialization.msgpack_restore(content)
    version = contents['version']
    optimizer = contents['optimizer']
    target, state = optimizer['target'], optimizer['state']
    step = int(np.asarray(state['step']))
  except (ValueError, KeyError, TypeError, IndexError) as error:
    raise ConversionError(
      f"{path} is no checkpoint of T5X's first layout "
      f'({type(error).__name__}: {str(error)[:200]}); expected a msgpack file '
      "{'version', 'optimizer': {'target', 'state'}}."
    ) from error
  if version not in _VERSIONS:
    raise ConversionError(
      f'{path} has version {version!r}; expected one of {_VERSIONS}. Restore '
      'and save it with a T5X of today.'
    )
  leaves = _leaves(target, ())
  return {
    '/'.join(name): _read_leaf(path.parent, '/'.join(name), value)
    for name, value in leaves.items()
  }, step


def _leaves(node: Any, prefix: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
  """Arrays and TensorStore specs of a nested dict."""
  if isinstance(node, Mapping) and not _SPEC_KEYS <= set(node):
    result = {}
    for key, child in node.items():
      result.update(_leaves(child, (*prefix, str(key))))
    return result
  return {prefix: node}


def _read_leaf(folder: pathlib.Path, name: str, leaf: Any) -> np.ndarray:
  if not isinstance(leaf, Mapping):
    if not isinstance(leaf, np.ndarray):
      raise ConversionError(
        f'{folder}: {name} is {type(leaf).__name__}, not an array; the '
        'checkpoint is not whole, or Orbax wrote it under another name than '
        f'{checkpoints_lib.PREFIX}_<step>.'
      )
    return leaf
  # The driver says where it was written (gs://, Google's file system), and is
  # replaced, as T5X does; the path is relative to the checkpoint.
  stored = leaf['kvstore'].get('path', leaf.get('path', ''))
  place = (folder / stored).resolve()
  if not stored or not place.is_relative_to(folder.resolve()):
    raise ConversionError(
      f'{folder}: {name} is said to lie at {stored!r}; expected a folder '
      'inside the checkpoint.'
    )
  try:
    store = tensorstore.open(
      {
        'driver': 'zarr',
        'kvstore': {'driver': 'file', 'path': f'{place}/'},
        # Otherwise a file that was not copied reads as zeros.
        'fill_missing_data_reads': False,
      },
      read=True,
      open=True,
    ).result()
    value = np.asarray(store.read().result())
  except (ValueError, OSError) as error:
    raise ConversionError(
      f'{folder}: cannot read {name} from {stored!r}: '
      f'{str(error).splitlines()[0][:300]}. Copy the checkpoint again, with '
      'the hidden files (.zarray) in its folders.'
    ) from error
  shape = tuple(leaf['metadata'].get('shape', value.shape))
  if value.shape != shape:
    raise ConversionError(
      f'{folder}: {name} has shape {value.shape} in {stored!r}, but '
      f'{LEGACY_FILE} says {shape}; files of two checkpoints are mixed.'
    )
  if value.dtype == np.uint16:
    return value.view(np.dtype(ml_dtypes.bfloat16))
  return value


def write(
  folder: pathlib.Path, tensors: Mapping[str, np.ndarray], step: int
) -> None:
  """Writes `checkpoint_<step>` in Orbax's layout, without optimizer states.

  Args:
    folder: holds the checkpoints.
    tensors: parameters by our names.
    step: updates done.
  """
  state = state_lib.TrainState(
    step=np.int32(step),
    params=model_lib.nested_params(
      {name: np.array(value, order='C') for name, value in tensors.items()}
    ),
    opt_state={},
    mutables={},
  )
  with checkpoints_lib.Checkpoints(folder, keep=None) as checkpoints:
    checkpoints.save(state, wait=True)
