"""Optimizers and learning-rate schedules, all of them Optax's."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import optax
from optax import contrib

from btr_jax import config as config_lib
from btr_jax.models import adapters, frozen
from btr_jax.training import partitioning

OPTIMIZERS = ('adamw', 'adafactor', 'muon')
SCHEDULES = ('constant', 'linear', 'cosine')

# Last name of parameters that weight decay leaves alone: norms, biases and
# the relative position bias. So it does the codec, which starts from
# statistics of the corpus, not from zero.
_NO_DECAY = ('scale', 'bias', 'rel_embedding')
_NO_DECAY_GROUPS = ('codec',)
# Kernels that map from or to something else than hidden states.
_OUTSIDE_LAYERS = frozenset(('logits_dense', 'codec'))
# Root mean square of AdamW's updates at learning rate 1, as it is found in
# practice (Liu et al. 2025, "Muon is scalable for LLM training").
_ADAMW_RMS = 0.2


# Learning rate by step.
Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """How parameters are updated.

  Attributes:
    name: `adamw`, `adafactor`, or `muon`: orthogonalized updates for the
      layers' matrices (Jordan et al. 2024), scaled to the size of AdamW's so
      that its learning rates serve; the rest gets AdamW with Nesterov's
      look-ahead.
    schedule: after the linear warmup: `constant`, or `linear` or `cosine` down
      to `final_fraction` of the learning rate at the last step.
    final_fraction: see schedule.
    clip_norm: largest global norm of the gradient; None for no clipping.
    weight_decay: decoupled weight decay, times the learning rate.
    beta1: AdamW's decay of the first moment (Muon's own is 0.95).
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
) -> Schedule:
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


def matrix_dimensions(params: Any) -> Any:
  """Which parameters Muon's orthogonalized updates are for.

  Returns:
    In the structure of `params`: MuonDimensionNumbers for matrices between
    hidden states; None (AdamW) for embedding, logits, biases, norms, codec.
  """

  def dimensions(path, leaf):
    names = partitioning.key_names(path)
    hidden = leaf.ndim == 2 and names[-1] == 'kernel'
    if hidden and not _OUTSIDE_LAYERS & set(names):
      return contrib.MuonDimensionNumbers()
    return None

  return jax.tree_util.tree_map_with_path(dimensions, params)


def above_split(
  optimizer: optax.GradientTransformation, split_layer: int
) -> optax.GradientTransformation:
  """The optimizer for what caches do not depend on; the rest stays.

  Args:
    optimizer: of the parameters above the split; it keeps no state of others.
    split_layer: k of the paper.
  """

  def labels(params):
    return jax.tree.map(
      lambda below: 'stays' if below else 'trained',
      frozen.below_split(params, split_layer),
    )

  return optax.partition(
    {'trained': optimizer, 'stays': optax.set_to_zero()}, labels
  )


def of_adapters(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The optimizer for a reader's adapters; the reader itself stays."""

  def labels(params):
    return {
      name: jax.tree.map(
        lambda _, name=name: 'trained' if name == adapters.GROUP else 'stays',
        tree,
      )
      for name, tree in params.items()
    }

  return optax.partition(
    {'trained': optimizer, 'stays': optax.set_to_zero()}, labels
  )


def make_optimizer(
  config: OptimizerConfig, schedule: Schedule
) -> optax.GradientTransformation:
  """The chain clip -> AdamW, Adafactor or Muon."""
  if config.name == 'adamw':
    update = optax.adamw(
      schedule,
      b1=config.beta1,
      b2=config.beta2,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      mask=decay_mask,
    )
  elif config.name == 'muon':
    update = optax.chain(
      # Directions only (-1 undoes the sign of a descent): Muon's own weight
      # decay would spare nothing of what AdamW gets.
      contrib.muon(
        -1.0,
        eps=config.epsilon,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=matrix_dimensions,
        consistent_rms=_ADAMW_RMS,
      ),
      optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
      optax.scale_by_learning_rate(schedule),
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
