"""Training of phrase vectors by optax, on batches of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from btr_jax import config as config_lib
from btr_jax.baselines.phrases import model, spans
from btr_jax.retrieval import bert

TRAINED = ('heads', 'all')
# The filter lets through what looks as likely as all but this share of the
# right tokens of the last steps.
_LOST_BY_FILTER = 0.01
_STEPS_FOR_FILTER = 50


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How phrase vectors are trained.

  Attributes:
    steps: batches.
    batch_size: questions of a batch, each with its passage.
    learning_rate: at the end of the warm-up; then down to 0 by a cosine.
    warmup: share of the steps.
    weight_decay: AdamW's.
    near: see `batches`.
    bank_after: share of the steps after which the right tokens of earlier
      batches compete. From the first step on they kept small models from
      telling questions apart, probably since their vectors are stale as long
      as the model changes fast.
    trained: `all`, or `heads` to leave the encoders as they are.
    seed: order of the examples.
  """

  steps: int = 1000
  batch_size: int = 24
  learning_rate: float = 1e-4
  warmup: float = 0.1
  weight_decay: float = 0.01
  near: int = 8
  bank_after: float = 0.75
  trained: str = 'all'
  seed: int = 0

  def __post_init__(self):
    config_lib.check_choice('trained', self.trained, TRAINED)
    for name in ('steps', 'batch_size', 'near'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f'{name} is {value}; expected at least 1.')
    if not self.learning_rate > 0:
      raise ValueError(
        f'learning_rate is {self.learning_rate}; expected above 0.'
      )
    for name in ('warmup', 'bank_after'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f'{name} is {value}; expected a share, 0 to 1.')


@dataclasses.dataclass(frozen=True)
class Trained:
  """What training gives.

  Attributes:
    params: as `model.initial_params`.
    thresholds: of the filter's logits, for starts and ends.
    losses: one per step.
    accuracies: share of questions whose best start in the batch is right.
  """

  params: dict[str, Any]
  thresholds: tuple[float, float]
  losses: list[float]
  accuracies: list[float]


def batches(
  examples: Sequence[spans.Example], batch_size: int, near: int, seed: int
) -> Iterator[list[spans.Example]]:
  """Whole batches without end, in a new order each time around.

  Args:
    examples: from `spans.make_examples`.
    batch_size: examples of a batch.
    near: examples that are drawn together: one, and of as many passages as
      there are that were retrieved for its question one each. So the passages
      of a batch are alike, and telling them apart is worth learning. 1 draws
      each by itself.
    seed: of the order.

  Raises:
    ValueError: fewer examples than a batch takes.
  """
  if len(examples) < batch_size:
    raise ValueError(
      f'{len(examples)} examples for a batch of {batch_size}; give more '
      'questions whose answers stand in their passages, or a smaller batch.'
    )
  generator = np.random.default_rng(seed)
  while True:
    order = _order(examples, near, generator)
    for start in range(0, len(order) - batch_size + 1, batch_size):
      yield [examples[i] for i in order[start : start + batch_size]]


def _order(examples, near, generator) -> list[int]:
  """Every example once, those near each other one behind the other."""
  first = generator.permutation(len(examples))
  waiting: dict[int, list[int]] = {}
  for i in first:
    waiting.setdefault(examples[i].passage_number, []).append(int(i))
  used, result = np.zeros(len(examples), bool), []
  for i in first:
    if used[i]:
      continue
    group = [int(i)]
    used[i] = True
    for number in generator.permutation(examples[i].near):
      others = waiting[number]
      while others and used[others[-1]]:
        others.pop()
      if len(group) < near and others:
        used[others[-1]] = True
        group.append(others.pop())
    result += group
  return result


def train(
  params: dict[str, Any],
  encoder: bert.BertConfig,
  config: model.PhraseConfig,
  recipe: TrainConfig,
  examples: Sequence[spans.Example],
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trained:
  """Trains heads, or heads and encoders.

  Args:
    params: from `model.initial_params`.
    encoder: architecture.
    config: sizes.
    recipe: steps and rates.
    examples: from `spans.make_examples`.
    progress: called with steps done and steps in all.

  Returns:
    New parameters, with what the filter needs.

  Raises:
    ValueError: too few examples.
    FloatingPointError: the loss is not finite any more.
  """
  parts = ('heads',) if recipe.trained == 'heads' else tuple(params)
  trainable = {name: params[name] for name in parts}
  fixed = {name: params[name] for name in params if name not in parts}
  schedule = optax.warmup_cosine_decay_schedule(
    0.0,
    recipe.learning_rate,
    max(1, int(recipe.warmup * recipe.steps)),
    # optax wants at least one step after the warm-up.
    max(2, recipe.steps + (recipe.warmup == 1)),
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, weight_decay=recipe.weight_decay),
  )
  state = optimizer.init(trainable)

  @jax.jit
  def step(trainable, state, bank, fixed, batch):
    def measure(trainable):
      return model.loss({**fixed, **trainable}, batch, bank, encoder, config)

    (value, found), slopes = jax.value_and_grad(measure, has_aux=True)(
      trainable
    )
    updates, state = optimizer.update(slopes, state, trainable)
    return optax.apply_updates(trainable, updates), state, value, found

  trainable, fixed = jax.device_put((trainable, fixed))
  bank = model.empty_bank(config, recipe.batch_size)
  losses, accuracies, gold_logits = [], [], []
  drawn = batches(examples, recipe.batch_size, recipe.near, recipe.seed)
  for number in range(1, recipe.steps + 1):
    batch = spans.make_batch(next(drawn), config)
    trainable, state, value, found = step(trainable, state, bank, fixed, batch)
    if number > recipe.bank_after * recipe.steps:
      bank = found['bank']
    losses.append(float(value))
    accuracies.append(float(found['accuracy']))
    gold_logits = [*gold_logits, np.asarray(found['gold_logits'])]
    gold_logits = gold_logits[-_STEPS_FOR_FILTER:]
    if not np.isfinite(losses[-1]):
      raise FloatingPointError(
        f'The loss is {losses[-1]} at step {number}; lower the learning rate.'
      )
    progress(number, recipe.steps)
  thresholds = np.quantile(np.concatenate(gold_logits), _LOST_BY_FILTER, axis=0)
  result = jax.device_get({**fixed, **trainable})
  return Trained(
    result, (float(thresholds[0]), float(thresholds[1])), losses, accuracies
  )
