"""What a stage starts from: the stage before it, or a reader on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import json
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import reader_files
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import distributed, partitioning
from btr_jax.training import settings as settings_lib
from btr_jax.training import state as state_lib


def stage_name(stage: int, config: config_lib.ReaderConfig) -> str:
  """Name of the stage's folder."""
  return f'stage3_{config.codec.kind}' if stage == 3 else f'stage{stage}'


def initial_params(
  path: pathlib.Path, stage: int
) -> tuple[Mapping[str, Any], str]:
  """Parameters of a stage folder, a reader directory or a family.

  Args:
    path: the folder.
    stage: that is to start from them; of a family, stage 3 takes the
      decomposed reader, the others the joint one.

  Returns:
    (parameters, where they come from).

  Raises:
    CheckpointError: the folder is none of the three, or cannot be read.
  """
  if (path / reader_files.READER_FILE).is_file():
    # In its own mode, so that a binary reader's codec comes along.
    return reader_files.load_reader(path).params, str(path)
  if (path / reader_files.FAMILY_FILE).is_file():
    mode = 'decomposed' if stage == 3 else 'joint'
    return reader_files.load_reader(path, mode=mode).params, str(path)
  if not checkpoints_lib.steps_in(path):
    raise checkpoints_lib.CheckpointError(
      f'INITIAL_CHECKPOINT is {str(path)!r}; expected a stage folder with '
      'checkpoint_<step> folders, or a reader directory with reader.json.'
    )
  params, step = checkpoints_lib.load_params(path)
  return params, f'{path}/{checkpoints_lib.PREFIX}_{step}'


def previous_params(
  model_dir: pathlib.Path,
  stage: int,
  config: config_lib.ReaderConfig,
  initial_checkpoint: str | None,
) -> tuple[Mapping[str, Any] | None, str | None]:
  """What a stage starts from.

  Args:
    model_dir: folder of the run.
    stage: that is to start.
    config: names the stage folders.
    initial_checkpoint: see `initial_params`; None for the stage before.

  Returns:
    (parameters, where they come from), (None, None) for fresh ones.

  Raises:
    CheckpointError: there is nothing to start from, or it cannot be read.
  """
  if initial_checkpoint is not None:
    path = pathlib.Path(initial_checkpoint)
    params, source = initial_params(path, stage)
    found = _codec_of(path)
    if found is not None and _grid(found) != _grid(config.codec):
      # Its parameters may have the shapes of this codec's, and say nothing
      # about it.
      params = {k: v for k, v in params.items() if k != 'codec'}
    return params, source
  if stage == 1:
    return None, None
  folder = model_dir / stage_name(stage - 1, config)
  if not checkpoints_lib.steps_in(folder):
    raise checkpoints_lib.CheckpointError(
      f'Stage {stage} starts from the last checkpoint of stage {stage - 1}, '
      f'but {folder} has none. Run --gin.STAGE={stage - 1} with this '
      'MODEL_DIR first, or set INITIAL_CHECKPOINT to a stage folder or a '
      'reader directory.'
    )
  params, step = checkpoints_lib.load_params(folder)
  return params, f'{folder}/{checkpoints_lib.PREFIX}_{step}'


def _codec_of(path: pathlib.Path) -> config_lib.CodecConfig | None:
  # Of a reader directory or a stage folder; a family gives none along.
  for name, key in (
    (reader_files.READER_FILE, 'config'),
    (settings_lib.SETTINGS_FILE, 'reader'),
  ):
    if (path / name).is_file():
      description = json.loads((path / name).read_text(encoding='utf-8'))
      return config_lib.ReaderConfig.from_dict(description[key]).codec
  return None


def _grid(codec):
  # What levels mean; everything else shows in the shapes.
  return codec.kind, codec.bits_per_dim


def teacher_params(model_dir: pathlib.Path) -> Mapping[str, Any] | None:
  """Parameters of the run's own stage 1, if it has one.

  They teach stage 2 wherever its parameters start from, so that
  INITIAL_CHECKPOINT may name a reader that is already decomposed.
  """
  folder = model_dir / 'stage1'
  if not checkpoints_lib.steps_in(folder):
    return None
  return checkpoints_lib.load_params(folder)[0]


def starting_variables(
  model: Any,
  fresh: Mapping[str, Any],
  mutable_names: Iterable[str],
  previous: Mapping[str, Any] | None,
  source: str | None,
  batches: Iterator[Mapping[str, np.ndarray]],
  teacher: Mapping[str, Any] | None = None,
  prediction: str = 'both',
) -> tuple[Mapping[str, Any], dict[str, Any]]:
  """What a stage starts from, whichever trainer runs it.

  Args:
    model: of the stage.
    fresh: parameters from the model's initialisers.
    mutable_names: of what is carried but not trained: the teacher or nothing.
    previous: parameters to start from; None for fresh ones.
    source: where they come from.
    batches: training batches that a fresh codec takes its statistics from.
    teacher: of stage 2; None takes the parameters that the stage starts from.
    prediction: of a fresh codec, see `codec_fit.PREDICTIONS`.

  Returns:
    (parameters, mutables).
  """
  params, stayed_fresh = fresh, []
  if previous is not None:
    params, stayed_fresh = state_lib.merge_params(params, previous, source)
    logging.info('Starting from %s', source)
  fits = previous is None or any(n.startswith('codec/') for n in stayed_fresh)
  if model.mode == 'binary' and fits:
    logging.info('Fitting the %s codec to passages', model.config.codec.kind)
    # As numpy: they are placed on the mesh when the state is created.
    params = jax.tree.map(partitioning.to_host, params)
    with distributed.alone():
      params = model.fit_codec(
        params,
        (
          batch['passage_tokens'].reshape(-1, batch['passage_tokens'].shape[-1])
          for batch in batches
        ),
        prediction,
      )
    params = distributed.of_first_process(params)
  taught_by = params if teacher is None else teacher
  return params, {name: taught_by for name in mutable_names}


def initial_state(
  model: Any,
  abstract: state_lib.TrainState,
  optimizer: Any,
  seed: int,
  previous: Mapping[str, Any] | None,
  source: str | None,
  batches: Iterator[Mapping[str, np.ndarray]],
  teacher: Mapping[str, Any] | None = None,
  prediction: str = 'both',
) -> state_lib.TrainState:
  """The state of a stage before its first step.

  Args:
    model: of the stage.
    abstract: its abstract state.
    optimizer: its optimizer.
    seed: of fresh parameters.
    previous: parameters to start from; None for fresh ones.
    source: where they come from.
    batches: training batches that a fresh codec takes its statistics from.
    teacher: of stage 2; None takes the parameters that the stage starts from.
    prediction: of a fresh codec, see `codec_fit.PREDICTIONS`.

  Returns:
    The state on the mesh.
  """
  params, mutables = starting_variables(
    model,
    state_lib.init_params(model, abstract, seed),
    abstract.mutables,
    previous,
    source,
    batches,
    teacher,
    prediction,
  )
  return state_lib.create_state(abstract, optimizer, params, mutables)
