"""Questions that a variant answers, and what its bits lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import layers, reader_files
from btr_jax.models import model as model_lib
from btr_jax.models import reader as reader_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import scoring, sources


@dataclasses.dataclass(frozen=True)
class Questions:
  """Which questions are answered, and what is read for them.

  Attributes:
    count: at most so many, from the first one on.
    split: of the data.
    every: 1 takes them one after another, 13 every thirteenth, so that they
      are of the whole split where it is in some order.
    passages: per question; None reads as many as in training.
    passage_length: tokens; None takes training's.
  """

  count: int
  split: str = 'validation'
  every: int = 1
  passages: int | None = None
  passage_length: int | None = None

  def settings(self) -> Any:
    """JSON values that tell questions apart."""
    # A number alone is what the first studies had.
    plain = self == Questions(self.count)
    return self.count if plain else dataclasses.asdict(self)

  def limits(self, training: config_lib.InputLimits) -> config_lib.InputLimits:
    """The lengths of the questions, from those of training."""
    return dataclasses.replace(
      training,
      num_passages=self.passages or training.num_passages,
      passage_length=self.passage_length or training.passage_length,
    )

  def batches(
    self,
    data: sources.BatchSource,
    limits: config_lib.InputLimits,
    batch_size: int,
  ) -> Iterator[sources.Batch]:
    """The questions, in batches of one size: the last is filled up by
    questions without target tokens, which weigh nothing."""
    single = itertools.islice(
      data.batches(self.split, limits, 1, seed=0),
      0,
      self.count * self.every,
      self.every,
    )
    while group := list(itertools.islice(single, batch_size)):
      missing = batch_size - len(group)
      group += [{k: np.zeros_like(v) for k, v in group[0].items()}] * missing
      yield {
        name: np.concatenate([one[name] for one in group]) for name in group[0]
      }


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


def check(data: sources.BatchSource, questions: Questions) -> None:
  """Finds out before anything is trained that it could not be asked.

  Raises:
    ValueError: a task that is scored by letters, tasks of several metrics, or
      more passages than the data's files are prepared with.
  """
  task = data.evaluation(questions.split)
  if task is not None and task[0].letters:
    raise ValueError(
      'The task is scored by letters; expected one whose answers are written.'
    )
  files = getattr(data, 'files', ())
  for one in files if isinstance(files, tuple) else (files,):
    if questions.passages and questions.passages > one.num_passages:
      raise ValueError(
        f'{questions.passages} passages are to be read of each question, and '
        f'those of {one.task} are prepared with {one.num_passages}; expected '
        'at most as many. Set NUM_PASSAGES.'
      )


def evaluate(
  reader: reader_files.LoadedReader,
  stage: int,
  given: Mapping[str, Any],
  questions: Questions,
  teacher: Any = None,
) -> tuple[dict[str, float], dict[str, list[float]]]:
  """Answers questions.

  Args:
    reader: what was trained, in the stage's mode.
    stage: 1 to 3.
    given: what the gin configuration binds to `runner.train`: data, lengths
      and batch size are taken from it.
    questions: which.
    teacher: joint parameters that states of stage 2 are compared to.

  Returns:
    (values, scores by question in per cent). Values are `loss` (the task's),
    `token_accuracy`; of stage 2 `distill_loss` over all tokens; of stage 3
    `recovery_loss`, with hard signs, `read_error` and `stream_error`, relative.

  Raises:
    ValueError: no questions, or see `check`.
  """
  data, recipe = given['data'], given['recipe']
  check(data, questions)
  limits, vocabulary = questions.limits(given['limits']), reader.vocabulary
  model = model_lib.BtrModel(
    reader.config,
    limits,
    stage=stage,
    distill_tokens='all',
    train_lower=recipe.train_lower,
  )
  task = data.evaluation(questions.split)
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
  for batch in questions.batches(data, limits, recipe.batch_size):
    metrics, errors, answers = measure(reader.params, mutables, batch)
    accumulated.add(metrics_lib.fetch(metrics))
    lost += np.asarray(errors, np.float64)
    names = ('decoder_target_tokens', 'question_tokens')
    rows = np.asarray(answers), *(np.asarray(batch[name]) for name in names)
    for row in np.flatnonzero(batch['decoder_loss_weights'].sum(axis=-1)):
      for name, value in score(*(part[row : row + 1] for part in rows)).items():
        scores.setdefault(name, []).append(round(value, 2))
  if not scores:
    raise ValueError(
      f'There is no question in split {questions.split!r}; expected at least '
      'one.'
    )
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
  return found, {name: all_[: questions.count] for name, all_ in scores.items()}
