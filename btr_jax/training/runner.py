"""The function that gin binds: everything a training run needs, injected."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import logging
import jax

from btr_jax import config as config_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import (
  distributed,
  optimizers,
  partitioning,
  sources,
  stages,
)
from btr_jax.training import loop as loop_lib
from btr_jax.training import recipe as recipe_lib

OPERATIVE_CONFIG = 'operative_config.gin'


def train(
  *,
  stage: Any,
  model_dir: str,
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  data: sources.BatchSource,
  recipe: recipe_lib.Recipe,
  optimizer: optimizers.OptimizerConfig,
  mesh: Sequence[int] = (-1, 1),
  log_period: int = 50,
  eval_period: int = 1000,
  eval_batches: int | None = 16,
  save_period: int = 1000,
  keep: int | None = 3,
  initial_checkpoint: str | None = None,
  export_dtype: str = 'float32',
  accept_changes: bool = False,
  tensorboard: bool = True,
  operative_config: str | None = None,
  provenance: dict[str, Any] | None = None,
  stop: loop_lib.StopSignal | None = None,
) -> bool:
  """Runs one stage of the recipe, or all three.

  Args:
    stage: 1, 2, 3 or 'all'.
    model_dir: folder of the run.
    reader: the architecture and codec.
    limits: lengths of the inputs.
    data: where batches and the vocabulary come from.
    recipe: what is trained, and how long.
    optimizer: how parameters are updated.
    mesh: devices along (data, model); -1 takes the rest.
    log_period: see `stages.run_stage`, as the following.
    eval_period: steps between evaluations.
    eval_batches: validation batches per evaluation.
    save_period: steps between checkpoints.
    keep: newest checkpoints to keep.
    initial_checkpoint: what the first stage that runs starts from.
    export_dtype: of the exported parameters.
    accept_changes: go on with a run of other training settings.
    tensorboard: write TensorBoard files.
    operative_config: gin's record of this run, kept in model_dir.
    provenance: recorded in the reader directories.
    stop: ends the run early; by default SIGTERM does.

  Returns:
    False if the run was ended early; it goes on when started again.

  Raises:
    ValueError: a setting that is wrong; see `stages.run_stage`.
  """
  numbers = recipe_lib.check_stage(stage)
  if not isinstance(model_dir, str) or not model_dir:
    raise ValueError(
      f'MODEL_DIR is {model_dir!r}; expected the folder of the run: '
      '--gin.MODEL_DIR="\'runs/tiny\'".'
    )
  if '://' in model_dir:
    raise ValueError(
      f'MODEL_DIR is {model_dir!r}; expected a folder on a file system that '
      'all hosts mount. Mount the bucket (docs/tpu_pods.md) and name the '
      'mounted folder.'
    )
  device_mesh = partitioning.make_mesh(mesh)
  folder = pathlib.Path(model_dir).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  distributed.check_shared_folder(folder)
  if operative_config is not None and jax.process_index() == 0:
    names = '_'.join(map(str, numbers)) if len(numbers) == 1 else 'all'
    checkpoints_lib.write_text(
      folder / OPERATIVE_CONFIG.replace('.gin', f'_stage_{names}.gin'),
      operative_config,
    )
  logging.info(
    'Mesh %s on %s', dict(device_mesh.shape), jax.devices()[0].device_kind
  )

  def run_all(stop):
    for index, number in enumerate(numbers):
      finished = stages.run_stage(
        number,
        model_dir=folder,
        reader=reader,
        limits=limits,
        data=data,
        recipe=recipe,
        optimizer=optimizer,
        mesh=device_mesh,
        stop=stop,
        log_period=log_period,
        eval_period=eval_period,
        eval_batches=eval_batches,
        save_period=save_period,
        keep=keep,
        initial_checkpoint=initial_checkpoint if index == 0 else None,
        export_dtype=export_dtype,
        accept_changes=accept_changes,
        tensorboard=tensorboard,
        provenance=provenance,
      )
      if not finished:
        return False
    return True

  if stop is not None:
    return run_all(stop)
  with loop_lib.StopSignal() as signal_stop:
    return run_all(signal_stop)
