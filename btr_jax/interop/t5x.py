"""What T5X's gin files (`gin_configs/runs/t5x/`) bind: model, mesh, folders.

T5X trains, evaluates and infers with its own programs; these functions and
those of `t5x_training` give it our model, optimizer, batches and stages, such
that a run equals one of `btr_jax.train`: same start, same order of the data,
same dropout, same folders (`MODEL_DIR/stage<N>/checkpoint_<step>`). Nothing
here imports T5X before it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from btr_jax import axes as axes_lib
from btr_jax import config as config_lib
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.models import model as model_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import partitioning, sources, stages, start
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import state as state_lib


def check_stage(stage: Any) -> int:
  """The stage; T5X runs one at a time.

  Raises:
    ValueError: 'all', or no stage.
  """
  if stage == 'all' or len(recipe_lib.check_stage(stage)) != 1:
    raise ValueError(
      f'STAGE is {stage!r}; T5X runs one stage at a time: --gin.STAGE=1, then '
      '2, then 3, with the same MODEL_DIR.'
    )
  return stage


def check_source(data: Any) -> sources.SeqioSource:
  """The source; T5X reads SeqIO tasks alone.

  Raises:
    ValueError: another source.
  """
  if not isinstance(data, sources.SeqioSource):
    raise ValueError(
      f'DATA is {data!r}; T5X reads SeqIO tasks: expected '
      'sources.SeqioSource, as in gin_configs/data/factbook.gin.'
    )
  return data


def model(
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  data: sources.SeqioSource,
  stage: int,
  recipe: recipe_lib.Recipe | None = None,
  optimizer_def: Any = None,
) -> model_lib.BtrModel:
  """The model of a stage.

  Args:
    reader: the architecture and codec.
    limits: lengths of the inputs.
    data: its task's vocabularies become the model's.
    stage: 1, 2 or 3.
    recipe: of training; None for a model that only answers, which carries no
      teacher.
    optimizer_def: T5X's optimizer, in training.

  Returns:
    The model object that T5X drives.

  Raises:
    ValueError: stage or data that T5X cannot run, or a vocabulary that does
      not fit the reader.
  """
  check_stage(stage)
  partial = recipe is not None and (
    not recipe.train_lower or recipe.adapter_rank
  )
  if partial:
    raise ValueError(
      f'TRAIN_LOWER is {recipe.train_lower} and ADAPTER_RANK '
      f'{recipe.adapter_rank}; T5X trains all parameters. Expected True and 0, '
      'or the trainer of this package: python -m btr_jax.train.'
    )
  if recipe is not None and recipe.annealing(stage) is not None:
    raise ValueError(
      f'BINARIZER is {recipe.binarizer!r}; T5X tells a loss nothing of the '
      "step. Expected 'straight_through', or the trainer of this package: "
      'python -m btr_jax.train.'
    )
  vocabulary = vocabulary_lib.Vocabulary(*check_source(data).vocabulary_file())
  stages.check_vocabulary(reader, vocabulary)
  features = data.seqio_task().output_features
  training = recipe is not None
  return model_lib.BtrModel(
    reader,
    limits,
    stage=stage if training else 1,
    mode=model_lib.STAGE_MODES[stage],
    distill_tokens=recipe.distill_tokens if training else 'none',
    recovery_weight=recipe.recovery_weight if training else 1.0,
    input_vocabulary=features['inputs'].vocabulary,
    output_vocabulary=features['targets'].vocabulary,
    optimizer_def=optimizer_def,
  )


def stage_folder(
  model_dir: Any, stage: Any, reader: config_lib.ReaderConfig
) -> str:
  """The stage's folder in MODEL_DIR, the same one that our trainer takes.

  Raises:
    ValueError: no MODEL_DIR, one that is no folder, or not one stage.
  """
  if not isinstance(model_dir, str) or not model_dir:
    raise ValueError(
      f'MODEL_DIR is {model_dir!r}; expected the folder of the run: '
      '--gin.MODEL_DIR="\'runs/tiny\'".'
    )
  if '://' in model_dir:
    raise ValueError(
      f'MODEL_DIR is {model_dir!r}; expected a folder on a file system that '
      'all hosts mount. Mount the bucket and name the mounted folder.'
    )
  folder = pathlib.Path(model_dir).absolute()  # Orbax insists on that.
  return str(folder / start.stage_name(check_stage(stage), reader))


def newest_checkpoint(folder: str) -> str:
  """The newest checkpoint of a stage folder.

  Raises:
    CheckpointError: there is none.
  """
  steps = checkpoints_lib.steps_in(folder)
  if not steps:
    raise checkpoints_lib.CheckpointError(
      f'{folder} has no checkpoint_<step>. Train that stage first, or set '
      'CHECKPOINT_PATH, STAGE or MODEL_DIR.'
    )
  return f'{folder}/{checkpoints_lib.PREFIX}_{steps[-1]}'


def fitting_checkpoint(path: str, model: model_lib.BtrModel) -> str:
  """The path, if the checkpoint's parameters are the model's.

  T5X takes what the model asks for and leaves the rest unread, so a model of
  fewer layers would answer, but wrongly.

  Args:
    path: of a checkpoint; only those by Orbax (ours, and T5X's of today) are
      compared.
    model: that is to answer.

  Returns:
    `path`.

  Raises:
    CheckpointError: parameters of another model, by name.
  """
  folder = pathlib.Path(path)
  prefix, _, step = folder.name.rpartition('_')
  if prefix == checkpoints_lib.PREFIX and (
    (folder / checkpoints_lib.ITEM).is_dir()
  ):
    shapes = state_lib.abstract_variables(model)['params']
    checkpoints_lib.check_params(folder.parent, int(step), shapes)
  return path


def output_folder(folder: str, name: str) -> str:
  """Where results of a stage go by default."""
  return f'{folder}/{name}'


def partitioner(mesh: Sequence[int], reader: config_lib.ReaderConfig) -> Any:
  """T5X's partitioner on our mesh and with our rules.

  T5X's own mesh ignores the number of partitions on CPUs and knows no TPU
  after v4; ours is the one that MESH asks for.

  Args:
    mesh: devices along (data, model); -1 takes the rest.
    reader: whose heads the `model` axis must divide.

  Returns:
    A PjitPartitioner.

  Raises:
    ValueError: a mesh that does not use all devices exactly once, or does not
      divide the reader.
  """
  from t5x import partitioning as t5x_partitioning

  device_mesh = partitioning.make_mesh(mesh)
  partitioning.check_model_axis(reader, device_mesh.shape['model'])
  cls = type(
    'Partitioner', (t5x_partitioning.PjitPartitioner,), {'mesh': device_mesh}
  )
  return cls(
    num_partitions=device_mesh.shape['model'],
    logical_axis_rules=axes_lib.LOGICAL_AXIS_RULES,
  )


def feature_lengths(limits: config_lib.InputLimits) -> dict[str, Any]:
  """The limits as SeqIO's `task_feature_lengths`."""
  from btr_jax.data import pipeline

  return pipeline.feature_lengths(limits)
