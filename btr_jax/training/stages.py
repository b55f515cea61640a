"""The recipe: three stages, each from the last checkpoint of the one before.

stage1            joint reader, task loss
stage2            decomposed reader, task + distillation from stage 1
stage3_<codec>    binary reader, task + recovery; the codec starts from
                  statistics of the corpus
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from absl import logging
import jax
import optax

from btr_jax import config as config_lib
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.evaluation import multiple_choice
from btr_jax.models import adapters, frozen, reader_files
from btr_jax.models import model as model_lib
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import (
  distributed,
  optimizers,
  partitioning,
  scoring,
  sources,
  start,
)
from btr_jax.training import loop as loop_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import settings as settings_lib
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib

READER_FOLDER = 'reader'


def check_vocabulary(
  config: config_lib.ReaderConfig, vocabulary: vocabulary_lib.Vocabulary
) -> None:
  """Raises ValueError unless the reader has a row for every id."""
  if config.vocab_size < vocabulary.vocab_size:
    raise ValueError(
      f'VOCAB_SIZE is {config.vocab_size}, but the vocabulary '
      f'{vocabulary.path} has {vocabulary.vocab_size} ids '
      f'({vocabulary.num_extra_ids} extra ids included); expected at least as '
      'many. Set '
      f'--gin.VOCAB_SIZE={vocabulary.vocab_size} or more.'
    )


def model_and_optimizer(
  stage: int,
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  recipe: recipe_lib.Recipe,
  optimizer: optimizers.OptimizerConfig,
) -> tuple[
  model_lib.BtrModel, optax.GradientTransformation, optimizers.Schedule
]:
  """What a stage trains, and how: (model, optimizer, learning rate by step).

  Args:
    stage: 1, 2 or 3.
    reader: the architecture and codec.
    limits: lengths of the inputs.
    recipe: what is trained.
    optimizer: how.

  Raises:
    ValueError: settings that do not go together.
  """
  values = recipe.settings(stage)
  schedule = optimizers.make_schedule(
    optimizer,
    values['learning_rate'],
    values['warmup_steps'],
    values['train_steps'],
  )
  transform = optimizers.make_optimizer(optimizer, schedule)
  train_lower = recipe.train_lower or stage == 1
  if recipe.adapter_rank:
    transform = optimizers.of_adapters(transform)
  elif not train_lower:
    transform = optimizers.above_split(transform, reader.split_layer)
  model = model_lib.BtrModel(
    reader,
    limits,
    stage=stage,
    distill_tokens=recipe.distill_tokens,
    recovery_weight=recipe.recovery_weight,
    train_lower=train_lower,
    adapter_rank=recipe.adapter_rank,
    annealing=recipe.annealing(stage),
  )
  return model, transform, schedule


def run_stage(
  stage: int,
  *,
  model_dir: pathlib.Path,
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  data: sources.BatchSource,
  recipe: recipe_lib.Recipe,
  optimizer: optimizers.OptimizerConfig,
  mesh: Any,
  stop: loop_lib.StopSignal,
  log_period: int = 50,
  eval_period: int = 1000,
  eval_batches: int | None = 16,
  save_period: int = 1000,
  keep: int | None = 3,
  initial_checkpoint: str | None = None,
  export_dtype: str = 'float32',
  accept_changes: bool = False,
  tensorboard: bool = True,
  provenance: Mapping[str, Any] | None = None,
) -> bool:
  """Trains one stage, or goes on with it; exports its reader at the end.

  Args:
    stage: 1, 2 or 3.
    model_dir: folder of the whole run.
    reader: the architecture and codec.
    limits: lengths of the inputs.
    data: where batches and the vocabulary come from.
    recipe: what is trained, and how long.
    optimizer: how.
    mesh: the devices.
    stop: set by SIGTERM.
    log_period: steps between written metrics.
    eval_period: steps between evaluations; 0 for the end only.
    eval_batches: validation batches per evaluation; 0 turns it off, None
      takes all.
    save_period: steps between checkpoints; 0 for the end only.
    keep: newest checkpoints to keep.
    initial_checkpoint: a stage folder, reader directory or family to start
      from, in place of the stage before.
    export_dtype: of the exported parameters.
    accept_changes: see `settings.check_settings`.
    tensorboard: write TensorBoard files.
    provenance: recorded in the reader directory.

  Returns:
    False if SIGTERM ended it early.

  Raises:
    ValueError: see `settings.check_settings` and `state.merge_params`;
      also for a vocabulary that does not fit, or a batch that does not divide.
    CheckpointError: a checkpoint that is missing or cannot be read.
    TrainingDivergedError: the loss is not finite.
  """
  name = start.stage_name(stage, reader)
  folder = model_dir / name
  partitioning.check_batch_size(recipe.batch_size, mesh, recipe.microbatches)
  partitioning.check_model_axis(reader, mesh.shape['model'])
  shard_index, num_shards = partitioning.data_shard(mesh.devices)
  vocabulary_path, extra_ids = data.vocabulary_file()
  vocabulary = vocabulary_lib.Vocabulary(vocabulary_path, extra_ids)
  check_vocabulary(reader, vocabulary)
  values = recipe.settings(stage)
  model, transform, schedule = model_and_optimizer(
    stage, reader, limits, recipe, optimizer
  )
  loop_config = loop_lib.LoopConfig(
    total_steps=values['train_steps'],
    log_period=log_period,
    eval_period=eval_period,
    save_period=save_period,
  )
  settings = {
    'stage': stage,
    'reader': reader.to_dict(),
    'limits': limits.to_dict(),
    'data': {**data.describe(), 'vocabulary': vocabulary.fingerprint},
    'recipe': values,
    'optimizer': dataclasses.asdict(optimizer),
  }
  # All or none of the processes go on, and from the same checkpoint.
  distributed.check_agreement(
    'the settings, or the newest checkpoint',
    [settings, initial_checkpoint, checkpoints_lib.steps_in(folder)[-1:]],
  )
  # Find out before the folder is touched that there is nothing to start from.
  resuming = bool(checkpoints_lib.steps_in(folder))
  previous, source = (
    (None, None)
    if resuming
    else start.previous_params(model_dir, stage, reader, initial_checkpoint)
  )
  settings_lib.check_settings(folder, settings, accept_changes)
  abstract = state_lib.abstract_state(model, transform, mesh)
  data_seed = recipe.data_seed(stage)

  def train_batches(start_step, shard_index=shard_index, num_shards=num_shards):
    return data.batches(
      'train',
      limits,
      recipe.batch_size,
      seed=data_seed,
      start_step=start_step,
      shard_index=shard_index,
      num_shards=num_shards,
    )

  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(checkpoints_lib.Checkpoints(folder, keep))
    if resuming:
      state = checkpoints.restore(abstract)
      logging.info('Going on from %s, step %d', folder, int(state.step))
    else:
      with partitioning.mesh_context(mesh):
        state = start.initial_state(
          model,
          abstract,
          transform,
          recipe.seed,
          previous,
          source,
          # Whole batches: all processes must find the same statistics.
          itertools.islice(train_batches(0, 0, 1), recipe.codec_fit_batches),
          start.teacher_params(model_dir) if stage == 2 else None,
          recipe.codec_prediction,
        )
    _check_codes(settings['data'].get('codes'), state.params, reader)
    del previous
    start_step = int(state.step)
    finished = start_step >= loop_config.total_steps
    if finished:
      logging.info('%s is already at step %d', name, start_step)
    else:
      writers = stack.enter_context(
        metrics_lib.MetricWriters(folder, name, tensorboard=tensorboard)
      )
      batches = stack.enter_context(
        loop_lib.Prefetcher(
          train_batches(start_step),
          lambda batch: partitioning.shard_batch(batch, mesh),
        )
      )
      state, finished = loop_lib.run_loop(
        state,
        step_lib.make_train_step(
          model,
          transform,
          schedule,
          abstract,
          mesh,
          seed=recipe.seed,
          microbatches=recipe.microbatches,
        ),
        batches,
        loop_config,
        name=name,
        batch_size=recipe.batch_size,
        checkpoints=checkpoints,
        writers=writers,
        stop=stop,
        evaluate=_make_evaluate(
          model, mesh, data, limits, recipe.batch_size, vocabulary, eval_batches
        ),
      )
    exported = folder / READER_FOLDER
    whole = (exported / reader_files.READER_FILE).is_file()
    if finished and (start_step < int(state.step) or not whole):
      _export(
        exported,
        reader,
        limits,
        state,
        vocabulary_path,
        extra_ids,
        export_dtype,
        {
          **(provenance or {}),
          'stage': stage,
          'step': int(state.step),
          'started_from': source,
          'settings': settings,
        },
      )
  return finished


def _check_codes(codes, params, reader):
  if codes is None:
    return
  found = frozen.fingerprint(jax.tree.map(partitioning.to_host, params), reader)
  if codes != found:
    raise ValueError(
      'The batches hold codes of passages by a reader whose lower layers or '
      f'codec are others: expected fingerprint {found[:16]}..., found '
      f'{codes[:16]}... Prepare the batches with the reader that '
      'INITIAL_CHECKPOINT names, or start from the one that they were made by.'
    )


def _make_evaluate(
  model, mesh, data, limits, batch_size, vocabulary, num_batches
):
  if num_batches == 0:
    return None
  shard_index, num_shards = partitioning.data_shard(mesh.devices)
  eval_fn = step_lib.make_eval_step(model, mesh)
  task = data.evaluation('validation')
  predict = None
  if task is None:
    score = scoring.make_scorer(vocabulary)
  else:
    metric, records = task
    score = scoring.make_task_scorer(vocabulary, limits, metric, records)
    if metric.letters:
      predict = functools.partial(
        multiple_choice.predict_letters,
        model,
        letters=multiple_choice.Letters.of(vocabulary),
      )
  predict_fn = step_lib.make_predict_step(model, mesh, predict)

  def evaluate(params):
    return loop_lib.evaluate_batches(
      data.batches(
        'validation',
        limits,
        batch_size,
        seed=0,
        shard_index=shard_index,
        num_shards=num_shards,
      ),
      params,
      put=lambda batch: partitioning.shard_batch(batch, mesh),
      eval_fn=eval_fn,
      predict_fn=predict_fn,
      score=score,
      num_batches=num_batches,
    )

  return evaluate


def _export(
  path, reader, limits, state, vocabulary_path, extra_ids, dtype, provenance
):
  # All processes take part in gathering, one writes.
  params = adapters.merged(jax.tree.map(partitioning.to_host, state.params))
  if jax.process_index() != 0:
    return
  reader_files.save_reader(
    path,
    reader,
    limits,
    params,
    vocabulary_path,
    extra_ids=extra_ids,
    provenance=provenance,
    dtype=dtype,
  )
  logging.info('Exported the reader to %s', path)
