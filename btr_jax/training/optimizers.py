"""Optimizers and learning-rate schedules, all of them Optax's."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import optax

from btr_jax import config as config_lib
from btr_jax.training import partitioning

OPTIMIZERS = ('adamw', 'adafactor')
SCHEDULES = ('constant', 'linear', 'cosine')

# Last name of parameters that weight decay leaves alone: norms, biases and
# the relative position bias. So it does the codec, which starts from
# statistics of the corpus, not from zero.
_NO_DECAY = ('scale', 'bias', 'rel_embedding')
_NO_DECAY_GROUPS = ('codec',)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """How parameters are updated.

  Attributes:
    name: `adamw` or `adafactor`.
    schedule: after the linear warmup: `constant`, or `linear` or `cosine` down
      to `final_fraction` of the learning rate at the last step.
    final_fraction: see schedule.
    clip_norm: largest global norm of the gradient; None for no clipping.
    weight_decay: decoupled weight decay, times the learning rate.
    beta1: AdamW's decay of the first moment.
    beta2: AdamW's decay of the second moment.
    epsilon: AdamW's epsilon.
  """

  name: str = 'adamw'
  schedule: str = 'cosine'
  final_fraction: float = 0.0
  clip_norm: float | None = 1.0
  weight_decay: float = 0.01
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-6

  def __post_init__(self):
    config_lib.check_choice('OPTIMIZER', self.name, OPTIMIZERS)
    config_lib.check_choice('SCHEDULE', self.schedule, SCHEDULES)
    if not 0.0 <= self.final_fraction <= 1.0:
      raise ValueError(
        f'final_fraction is {self.final_fraction}; expected 0 to 1, the share '
        'of the learning rate that the last step keeps.'
      )


def make_schedule(
  config: OptimizerConfig,
  learning_rate: float,
  warmup_steps: int,
  total_steps: int,
) -> Callable[[Any], Any]:
  """Learning rate by step.

  Args:
    config: names the schedule.
    learning_rate: its peak.
    warmup_steps: steps of the linear rise from 0.
    total_steps: the step at which the decay ends.

  Returns:
    A function from step to learning rate.

  Raises:
    ValueError: a warmup as long as the training, or a rate not above 0.
  """
  if learning_rate <= 0:
    raise ValueError(f'LEARNING_RATE is {learning_rate}; expected above 0.')
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f'WARMUP_STEPS is {warmup_steps}; expected 0 to {total_steps - 1}, less '
      f'than TRAIN_STEPS={total_steps}.'
    )
  decay_steps = total_steps - warmup_steps
  if config.schedule == 'constant':
    after = optax.constant_schedule(learning_rate)
  elif config.schedule == 'linear':
    after = optax.linear_schedule(
      learning_rate, learning_rate * config.final_fraction, decay_steps
    )
  else:
    after = optax.cosine_decay_schedule(
      learning_rate, decay_steps, config.final_fraction
    )
  if not warmup_steps:
    return after
  # The first step already moves: (step + 1) / warmup_steps.
  rise = optax.linear_schedule(
    learning_rate / warmup_steps, learning_rate, max(1, warmup_steps - 1)
  )
  return optax.join_schedules([rise, after], [warmup_steps])


def decay_mask(params: Any) -> Any:
  """True for the parameters that weight decay acts on."""

  def decays(path, leaf):
    names = partitioning.key_names(path)
    return not (
      leaf.ndim < 2 or names[-1] in _NO_DECAY or names[0] in _NO_DECAY_GROUPS
    )

  return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
  config: OptimizerConfig, schedule: Callable[[Any], Any]
) -> optax.GradientTransformation:
  """The chain clip -> AdamW or Adafactor."""
  if config.name == 'adamw':
    update = optax.adamw(
      schedule,
      b1=config.beta1,
      b2=config.beta2,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      mask=decay_mask,
    )
  else:
    update = optax.adafactor(
      schedule,
      # Optax's decay here is not times the learning rate, AdamW's is.
      weight_decay_rate=(
        (lambda count: config.weight_decay * schedule(count))
        if config.weight_decay
        else None
      ),
      weight_decay_mask=decay_mask,
    )
  if config.clip_norm is None:
    return update
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
