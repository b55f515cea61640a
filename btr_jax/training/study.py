"""What parts of training are worth: variants of a stage from one reader.

Every variant starts from the same reader, sees the same batches for a seed,
takes as many steps, and answers the same validation questions. Those of stage
2 start from the joint reader of a family, which also teaches them, those of
stage 3 from its decomposed one. A result depends on its settings alone, so a
study goes on where it was ended.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.evaluation.study import intervals
from btr_jax.models import layers, reader_files
from btr_jax.models import model as model_lib
from btr_jax.models import reader as reader_lib
from btr_jax.training import loop as loop_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import runner, scoring, sources, stages, start

# Of codecs: the paper's and ours, and the bits without calibration.
_KINDS = ('calibrated', 'residual', 'sign')
# What stage 3 has where a variant says nothing else, whatever gin binds.
_PAPER = {'binarizer': 'straight_through', 'recovery_weight': 1.0}
_START_MODES = {2: 'joint', 3: 'decomposed'}


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way to train a stage.

  Attributes:
    name: of the row.
    stage: 2 or 3.
    against: name of the variant that it differs from in one thing.
    codec: kind of the codec; None leaves the configured one.
    wiring: of the calibrated codec.
    recipe: fields of the recipe that it sets.
  """

  name: str
  stage: int
  against: str | None = None
  codec: str | None = None
  wiring: str = 'recovered'
  recipe: tuple[tuple[str, Any], ...] = ()

  @property
  def slug(self) -> str:
    """The name, for folders."""
    return self.name.replace(', ', '_').replace(' ', '-')


def variants() -> dict[str, Variant]:
  """All variants by name, each behind the one it is compared to."""
  found = []
  for kind in _KINDS:
    annealed = (('binarizer', 'annealed'),)
    without = (('recovery_weight', 0.0),)
    found += [
      Variant(kind, 3, None if kind == _KINDS[0] else _KINDS[0], kind),
      Variant(f'{kind}, annealed', 3, kind, kind, recipe=annealed),
      Variant(f'{kind}, no recovery', 3, kind, kind, recipe=without),
    ]
  found += [
    Variant(
      f'calibrated, wiring {wiring}', 3, 'calibrated', 'calibrated', wiring
    )
    for wiring in config_lib.WIRINGS[1:]
  ]
  first = config_lib.TOKEN_SELECTIONS[0]
  found += [
    Variant(
      f'distill {tokens}',
      2,
      None if tokens == first else f'distill {first}',
      recipe=(('distill_tokens', tokens),),
    )
    for tokens in config_lib.TOKEN_SELECTIONS
  ]
  return {variant.name: variant for variant in found}


def training_arguments(
  variant: Variant, given: Mapping[str, Any], seed: int
) -> dict[str, Any]:
  """What `runner.train` takes for a variant, but for its folder and start.

  Args:
    variant: what is trained.
    given: what the gin configuration binds to `runner.train`.
    seed: of batches, fresh parameters and dropout.

  Returns:
    Arguments by name. A codec of the configured kind stays as configured, one
    of another kind has its defaults.

  Raises:
    ValueError: the variant cannot be trained so.
  """
  reader, recipe = given['reader'], given['recipe']
  codec = reader.codec
  if variant.codec not in (None, codec.kind):
    codec = config_lib.CodecConfig(variant.codec)
  changes = dict(variant.recipe)
  if variant.stage == 3:
    codec = dataclasses.replace(codec, wiring=variant.wiring)
    changes = _PAPER | changes
  reader = dataclasses.replace(reader, codec=codec)
  recipe = dataclasses.replace(recipe, seed=seed, **changes)
  # Now, not after hours of other variants.
  model_lib.BtrModel(
    reader,
    given['limits'],
    stage=variant.stage,
    train_lower=recipe.train_lower,
    annealing=recipe.annealing(variant.stage),
  )
  return {
    **given,
    'stage': variant.stage,
    'reader': reader,
    'recipe': recipe,
    'eval_batches': 0,
    'save_period': 0,
    'keep': 1,
    'tensorboard': False,
  }


def fingerprint(
  arguments: Mapping[str, Any], start_from: pathlib.Path, questions: int
) -> str:
  """SHA-256 of all that a result depends on.

  Args:
    arguments: of `training_arguments`.
    start_from: reader or family directory.
    questions: how many are answered.
  """
  stage = arguments['stage']
  folder = reader_files.resolve_family(start_from, _START_MODES[stage], None)
  weights = (folder / reader_files.WEIGHTS_FILE).read_bytes()
  described = {
    'stage': stage,
    'reader': arguments['reader'].to_dict(),
    'limits': arguments['limits'].to_dict(),
    'data': arguments['data'].describe(),
    'recipe': arguments['recipe'].settings(stage),
    'optimizer': dataclasses.asdict(arguments['optimizer']),
    'start': hashlib.sha256(weights).hexdigest(),
    'questions': questions,
  }
  text = json.dumps(described, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def codec_errors(
  module: reader_lib.Reader, tokens: Int[Array, 'sequences length']
) -> Float[Array, '4']:
  """How much of passages' states their bits lose; a method of a bound Reader.

  Args:
    module: the reader, binary.
    tokens: passages, padded with 0.

  Returns:
    Over real tokens, squared errors and squares of what attention reads, then
    of the residual stream by its root mean square.
  """
  states = module.passage_states(tokens)
  scale, norm = module.encoder.split_norm_scale(), module.encoder.split_norm
  code = module.codec.encode(states, tokens, scale)
  decoded = module.codec.decode(code, tokens, scale).astype(states.dtype)
  read = module.codec.reading(code)
  rms = layers.root_mean_square(states)
  pairs = (
    (norm(decoded) if read is None else read, norm(states)),
    (decoded / rms, states / rms),
  )
  real = (tokens != reader_lib.PAD_ID).astype(jnp.float32)[..., None]
  return jnp.stack(
    [
      jnp.sum(jnp.square(value) * real)
      for found, wanted in pairs
      for value in (found - wanted, wanted)
    ]
  )


def evaluate(
  reader: reader_files.LoadedReader,
  stage: int,
  data: sources.BatchSource,
  batch_size: int,
  questions: int,
  teacher: Any = None,
) -> tuple[dict[str, float], dict[str, list[float]]]:
  """Answers validation questions.

  Args:
    reader: what was trained, in the stage's mode.
    stage: 2 or 3.
    data: of the questions.
    batch_size: questions at once.
    questions: at most so many.
    teacher: joint parameters that states of stage 2 are compared to.

  Returns:
    (values, scores by question in per cent). Values are `loss` (the task's),
    `token_accuracy`; of stage 2 `distill_loss` over all tokens; of stage 3
    `recovery_loss`, with hard signs, `read_error` and `stream_error`, relative.

  Raises:
    ValueError: no questions, or a task that is scored by letters.
  """
  limits, vocabulary = reader.limits, reader.vocabulary
  model = model_lib.BtrModel(
    reader.config, limits, stage=stage, distill_tokens='all'
  )
  task = data.evaluation('validation')
  if task is not None and task[0].letters:
    raise ValueError(
      'The task is scored by letters; expected one whose answers are written.'
    )
  score = (
    scoring.make_scorer(vocabulary)
    if task is None
    else scoring.make_task_scorer(vocabulary, limits, *task)
  )
  mutables = {model_lib.TEACHER: teacher} if stage == 2 else {}

  @jax.jit
  def measure(params, mutables, batch):
    metrics = model.loss_fn(params, batch, None, mutables)[1]
    lost = jnp.zeros(4)
    if stage == 3:
      tokens = batch['passage_tokens']
      variables = model.variables(params)
      flat = tokens.reshape(-1, tokens.shape[-1])
      lost = model.module.apply(variables, flat, method=codec_errors)
    answers = model.predict_batch(params, batch)
    return metrics[0] if mutables else metrics, lost, answers

  accumulated, lost, scores = metrics_lib.Accumulator(), np.zeros(4), {}
  batches = data.batches('validation', limits, batch_size, seed=0)
  for batch in itertools.islice(batches, -(-questions // batch_size)):
    metrics, errors, answers = measure(reader.params, mutables, batch)
    accumulated.add(metrics_lib.fetch(metrics))
    lost += np.asarray(errors, np.float64)
    names = ('decoder_target_tokens', 'question_tokens')
    rows = np.asarray(answers), *(np.asarray(batch[name]) for name in names)
    for row in np.flatnonzero(batch['decoder_loss_weights'].sum(axis=-1)):
      for name, value in score(*(part[row : row + 1] for part in rows)).items():
        scores.setdefault(name, []).append(round(value, 2))
  if not scores:
    raise ValueError('There is no validation question; expected at least one.')
  values = accumulated.compute()
  kept = ('token_accuracy', 'distill_loss', 'recovery_loss')
  found = {'loss': values['task_loss']}
  found |= {name: values[name] for name in kept if name in values}
  if stage == 3:
    found |= {
      'read_error': lost[0] / lost[1],
      'stream_error': lost[2] / lost[3],
    }
  found = {name: float(value) for name, value in found.items()}
  return found, {name: all_[:questions] for name, all_ in scores.items()}


def run_one(
  variant: Variant,
  arguments: Mapping[str, Any],
  start_from: pathlib.Path,
  folder: pathlib.Path,
  questions: int,
  stop: loop_lib.StopSignal,
) -> dict[str, Any] | None:
  """Trains a variant, or goes on with it, and evaluates it.

  Args:
    variant: what is trained.
    arguments: of `training_arguments`.
    start_from: reader or family directory.
    folder: of the run.
    questions: of the validation split, at most so many.
    stop: ends the training early.

  Returns:
    `variant`, `seed`, `values`, `scores` by question as text, and seconds;
    None if it was ended early.

  Raises:
    ValueError: see `runner.train` and `evaluate`.
  """
  began = time.monotonic()
  finished = runner.train(
    **{
      **arguments,
      'model_dir': str(folder),
      'initial_checkpoint': str(start_from),
      'stop': stop,
    }
  )
  if not finished:
    return None
  trained = time.monotonic()
  stage = arguments['stage']
  name = start.stage_name(stage, arguments['reader'])
  reader = reader_files.load_reader(
    folder / name / stages.READER_FOLDER, mode=model_lib.STAGE_MODES[stage]
  )
  teacher = start.initial_params(start_from, stage)[0] if stage == 2 else None
  values, scores = evaluate(
    reader,
    stage,
    arguments['data'],
    arguments['recipe'].batch_size,
    questions,
    teacher,
  )
  return {
    'variant': variant.name,
    'seed': arguments['recipe'].seed,
    'values': values,
    # As text: a line of the record for all questions.
    'scores': {
      name: ' '.join(f'{score:g}' for score in by_question)
      for name, by_question in scores.items()
    },
    'train_seconds': round(trained - began, 1),
    'evaluate_seconds': round(time.monotonic() - trained, 1),
  }


def summary(results: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """A row for each variant that has a result.

  Args:
    results: of `run_one`.

  Returns:
    Rows with `variant`, `stage`, `against`, `seeds`; `scores` as {name: mean,
    low, high, by_seed}; `differences` to the variant it is compared to, for
    seeds and questions that both have; `values` as means over the seeds.
  """
  found: dict[str, dict[int, Mapping[str, Any]]] = {}
  for result in results:
    found.setdefault(result['variant'], {})[result['seed']] = result
  rows = []
  for name, variant in variants().items():
    if name not in found:
      continue
    own, other = found[name], found.get(variant.against or '', {})

    def of(runs, metric, seeds):
      texts = [runs[seed]['scores'][metric] for seed in seeds]
      return np.array([[float(x) for x in text.split()] for text in texts])

    seeds, both = sorted(own), sorted(set(own) & set(other))
    row: dict[str, Any] = {
      'variant': name,
      'stage': variant.stage,
      'against': variant.against,
      'seeds': seeds,
      'scores': {},
      'differences': {},
    }
    for metric in own[seeds[0]]['scores']:
      scores = of(own, metric, seeds)
      row['scores'][metric] = _cell(scores)
      row['scores'][metric]['by_seed'] = scores.mean(axis=1).tolist()
      if both:
        difference = of(own, metric, both) - of(other, metric, both)
        row['differences'][metric] = _cell(difference)
    row['values'] = {
      value: float(np.mean([own[seed]['values'][value] for seed in seeds]))
      for value in own[seeds[0]]['values']
    }
    rows.append(row)
  return rows


def _cell(scores):
  low, high = intervals.of_seeds(scores)
  return {'mean': float(scores.mean()), 'low': low, 'high': high}


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The results of a record; none where there is no file.

  Raises:
    ValueError: the file is no record of a study.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  try:
    return list(json.loads(path.read_text(encoding='utf-8'))['results'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no record of a study: {error!r}. Name another --output, or '
      'remove it.'
    ) from error
