"""Three stages of training a span reader, by the project's own loop.

  stage1_joint        the span loss
  stage2_decomposed   and distillation from stage 1
  stage3_binary       and recovery; the bits' centers and levels start from
                      statistics of the passages

Killed, or stopped by SIGTERM, the same call goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from btr_jax.baselines.span_reader import batches as batches_lib
from btr_jax.baselines.span_reader import files, network
from btr_jax.baselines.span_reader import model as model_lib
from btr_jax.data.records import Record
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import loop as loop_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import optimizers, partitioning
from btr_jax.training import settings as settings_lib
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib

READER_FOLDER = 'reader'
_STATISTICS_BATCHES = 8
_SMALLEST_LEVEL = 1e-3


@dataclasses.dataclass(frozen=True)
class SpanRecipe:
  """What one stage does.

  Attributes:
    stage: 1, 2 or 3.
    steps: updates.
    learning_rate: its peak; it rises over a tenth of the steps and falls
      along a cosine to 0.
    shape: of a batch.
    distill_tokens: stage 2: `attention`, `all`, `random` or `none`.
    statistics: stage 3: False starts from the bare signs, +-1.
    seed: of the order of the data.
  """

  stage: int
  steps: int
  learning_rate: float
  shape: batches_lib.BatchShape = batches_lib.BatchShape()  # noqa: RUF009
  distill_tokens: str = 'attention'
  statistics: bool = True
  seed: int = 0


def stage_name(stage: int) -> str:
  """stage1_joint, stage2_decomposed or stage3_binary."""
  return f'stage{stage}_{model_lib.STAGE_MODES[stage]}'


def fit_signs(
  params: network.Params, model: model_lib.SpanModel, batches: Sequence[Any]
) -> dict[str, Any]:
  """Centers and levels of the bits by the statistics of some passages.

  The center of a dimension is the mean of its states, its level the mean
  distance from there: of all values for a bit the ones with the least squared
  error. The guess of the recovery loss starts as the same.

  Args:
    params: of a decomposed reader.
    model: its model.
    batches: of training.

  Returns:
    Parameters with another 'codec'.
  """
  encode = jax.jit(
    lambda params, tokens: network.encode_passages(params, tokens, model.config)
  )
  found = []
  for batch in batches:
    tokens = batch['passage_tokens']
    found.append(np.asarray(encode(params, tokens))[tokens != network.PAD_ID])
  states = np.concatenate(found)
  center = states.mean(axis=0)
  level = np.maximum(np.abs(states - center).mean(axis=0), _SMALLEST_LEVEL)
  return {
    **params,
    'codec': {
      'center': center,
      'level': level,
      'recovery': {'weight': np.diag(level), 'bias': center},
    },
  }


def run_stage(
  recipe: SpanRecipe,
  model_dir: pathlib.Path,
  records: Sequence[Record],
  start: files.Loaded,
  teacher: files.Loaded | None = None,
  *,
  save_period: int = 100,
  stop: loop_lib.StopSignal | None = None,
) -> pathlib.Path | None:
  """Trains a stage, or goes on with it, and writes its reader.

  Args:
    recipe: what and how long.
    model_dir: folder of the run; the stage gets one in it.
    records: questions with passages that hold an answer.
    start: the reader to start from.
    teacher: stage 2: the joint reader.
    save_period: steps between checkpoints.
    stop: ends it early, after a save.

  Returns:
    The reader's folder, or None if it was stopped before the last step.

  Raises:
    ValueError: the folder holds another run, or stage 2 lacks a teacher.
    TrainingDivergedError: the loss is not finite.
  """
  name = stage_name(recipe.stage)
  folder = pathlib.Path(model_dir) / name
  model = model_lib.SpanModel(
    start.config, recipe.stage, distill_tokens=recipe.distill_tokens
  )
  if model.distils and teacher is None:
    raise ValueError(f'{name} distils from a joint reader; none was given.')
  data = batches_lib.TrainingBatches(records, start.tokenizer, recipe.shape)
  settings = {
    'stage': recipe.stage,
    'reader': start.config.to_dict(),
    'recipe': dataclasses.asdict(recipe),
    'questions': data.num_questions,
    'passages': data.num_passages,
    'tokenizer': start.tokenizer.fingerprint,
    'start': start.fingerprint,
    'data': data.fingerprint,
  }
  settings_lib.check_settings(folder, settings, accept_changes=False)
  optimizer = optimizers.OptimizerConfig(weight_decay=0.0)
  schedule = optimizers.make_schedule(
    optimizer, recipe.learning_rate, recipe.steps // 10, recipe.steps
  )
  transform = optimizers.make_optimizer(optimizer, schedule)
  # One device: the reader is small, and its passages belong to all questions.
  mesh = partitioning.make_mesh((1, 1), jax.local_devices()[:1])
  abstract = state_lib.abstract_state(model, transform, mesh)
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(checkpoints_lib.Checkpoints(folder, 1))
    if checkpoints.latest_step() is not None:
      state = checkpoints.restore(abstract)
    else:
      params = start.params
      if recipe.stage == 3 and recipe.statistics:
        some = itertools.islice(
          data.from_step(0, recipe.seed), _STATISTICS_BATCHES
        )
        params = fit_signs(params, model, list(some))
      mutables = {model_lib.TEACHER: teacher.params} if model.distils else {}
      state = state_lib.create_state(abstract, transform, params, mutables)
    if int(state.step) < recipe.steps:
      if stop is None:
        stop = stack.enter_context(loop_lib.StopSignal())
      state, _ = loop_lib.run_loop(
        state,
        step_lib.make_train_step(
          model, transform, schedule, abstract, mesh, seed=recipe.seed
        ),
        (
          partitioning.shard_batch(batch, mesh)
          for batch in data.from_step(int(state.step), recipe.seed)
        ),
        loop_lib.LoopConfig(
          recipe.steps, log_period=10, eval_period=0, save_period=save_period
        ),
        name=name,
        batch_size=recipe.shape.questions,
        checkpoints=checkpoints,
        writers=stack.enter_context(
          metrics_lib.MetricWriters(folder, name, tensorboard=False)
        ),
        stop=stop,
      )
    if int(state.step) < recipe.steps:
      return None
    exported = folder / READER_FOLDER
    files.save(
      exported,
      start.config,
      model.mode,
      jax.tree.map(partitioning.to_host, state.params),
      start.tokenizer,
      _provenance(start.provenance, name, settings),
    )
  return exported


def _provenance(
  before: Mapping[str, Any], name: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
  """What the reader went through, stage by stage."""
  own = {key: settings[key] for key in ('recipe', 'questions', 'passages')}
  return {**before, 'stages': [*before.get('stages', []), {name: own}]}
