"""What of the recipe one may choose: stages, steps, rates, switches."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from btr_jax import config as config_lib

STAGES = (1, 2, 3)


def check_stage(stage: Any) -> tuple[int, ...]:
  """The stages to run: 1, 2, 3 or 'all'.

  Raises:
    ValueError: anything else.
  """
  if stage == 'all':
    return STAGES
  if isinstance(stage, bool) or stage not in STAGES:
    raise ValueError(
      f'STAGE is {stage!r}; expected 1 (joint), 2 (decomposed), 3 (binary) or '
      "'all': --gin.STAGE=2, or --gin.STAGE=\"'all'\"."
    )
  return (stage,)


def by_stage(name: str, value: Any, stage: int) -> Any:
  """A setting's value for a stage: one for all, or a sequence of three.

  Raises:
    ValueError: a sequence of another length.
  """
  if not isinstance(value, (tuple, list)):
    return value
  if len(value) != len(STAGES):
    raise ValueError(
      f'{name} is {value!r}; expected one value, or three: one per stage.'
    )
  return value[stage - 1]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What is trained, and how long.

  The first three take one value for all stages, or three: one per stage.

  Attributes:
    train_steps: updates.
    learning_rate: its peak.
    warmup_steps: of them, steps in which the rate rises.
    batch_size: examples per update, over all devices.
    microbatches: parts of the batch, one in memory at a time.
    distill_tokens: stage 2: `attention`, `random`, `all` or `none`; the last
      learns from the task alone and saves the teacher's run.
    train_lower: whether stages 2 and 3 train what cached passages depend on;
      without it, caches stay valid, and a step costs a fraction where the
      batches hold codes (`btr prepare-batches --reader`).
    adapter_rank: of low-rank adapters that alone are trained, in every stage,
      in place of the matrices themselves; 0 for none.
    codec_fit_batches: stage 3: training batches whose passages the codec's
      statistics come from.
    codec_prediction: stage 3: what a token id's states are predicted by, see
      `codec_fit.PREDICTIONS`; `embedding` for readers shipped as deltas.
    seed: of parameters, dropout and the order of the data.
    recovery_weight: stage 3: of the recovery loss; 0 does not compute it.
    binarizer: stage 3: `straight_through` (the paper's), or `annealed`:
      tanh(beta x) with a beta that grows over the steps (BPR, HashNet);
      evaluated and exported are hard signs either way.
    anneal_beta: the beta of the last step; it begins at 1.
  """

  train_steps: int | Sequence[int]
  learning_rate: float | Sequence[float]
  warmup_steps: int | Sequence[int]
  batch_size: int
  microbatches: int = 1
  distill_tokens: str = 'attention'
  train_lower: bool = True
  adapter_rank: int = 0
  codec_fit_batches: int = 64
  codec_prediction: str = 'both'
  seed: int = 0
  recovery_weight: float = 1.0
  binarizer: str = 'straight_through'
  anneal_beta: float = 32.0

  def settings(self, stage: int) -> dict[str, Any]:
    """The values that hold for one stage."""
    values = dataclasses.asdict(self)
    # Younger than the first runs, which go on as they were.
    for name in ('recovery_weight', 'binarizer', 'anneal_beta'):
      if values[name] == getattr(Recipe, name):
        del values[name]
    for name in ('train_steps', 'learning_rate', 'warmup_steps'):
      values[name] = by_stage(name.upper(), values[name], stage)
    return values

  def annealing(self, stage: int) -> config_lib.AnnealingConfig | None:
    """How signs are annealed in a stage; None where they are not.

    Raises:
      ValueError: an unknown binarizer, or a beta that does not grow.
    """
    config_lib.check_choice('BINARIZER', self.binarizer, config_lib.BINARIZERS)
    if self.binarizer != 'annealed':
      return None
    steps = self.settings(stage)['train_steps']
    return config_lib.AnnealingConfig(steps, self.anneal_beta)

  def data_seed(self, stage: int) -> int:
    """Seed of the data's order: another one in every stage."""
    return self.seed * len(STAGES) + stage - 1
