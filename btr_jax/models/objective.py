"""The losses of a stage: the task, distillation, recovery (BTR section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from btr_jax import config as config_lib
from btr_jax import losses
from btr_jax.models import adapters, frozen, straight_through, token_codec
from btr_jax.models import reader as reader_lib

TEACHER = 'teacher'


@dataclasses.dataclass(frozen=True)
class Objective:
  """Which losses a stage has, and what they reach.

  Attributes:
    stage: 1 task, 2 task + distillation, 3 task + recovery.
    distill_tokens: stage 2: which tokens, see `losses.select_tokens`.
    recovery_weight: of the recovery loss; 0 does not compute it.
    train_lower: whether the losses reach what cached passages depend on.
    adapter_rank: of the adapters that alone are trained; 0 for none.
    annealing: how signs are trained in place of straight-through estimators.
  """

  stage: int
  distill_tokens: str = 'attention'
  recovery_weight: float = 1.0
  train_lower: bool = True
  adapter_rank: int = 0
  annealing: config_lib.AnnealingConfig | None = None

  def __post_init__(self):
    config_lib.check_choice(
      'distill_tokens', self.distill_tokens, config_lib.TOKEN_SELECTIONS
    )
    if self.recovery_weight < 0:
      raise ValueError(
        f'RECOVERY_WEIGHT is {self.recovery_weight}; expected 0, for no '
        'recovery loss, or more (the paper uses 1).'
      )

  def check_codec(self, codec: config_lib.CodecConfig) -> None:
    """Raises ValueError if signs are annealed and this codec trains none."""
    if self.annealing is None:
      return
    self.annealing.check_codec(codec)
    if not self.train_lower:
      raise ValueError(
        "BINARIZER is 'annealed' with TRAIN_LOWER=False; the signs of codes "
        'that stay are not trained. Expected TRAIN_LOWER=True, or '
        "BINARIZER='straight_through'."
      )

  @property
  def distils(self) -> bool:
    """Whether states are compared to the teacher's."""
    return self.stage == 2 and self.distill_tokens != 'none'

  def loss(
    self,
    module: reader_lib.Reader,
    split_layer: int,
    mode: str,
    params: Mapping[str, Any],
    batch: Mapping[str, Array],
    dropout_rng: jax.Array | None,
    flax_mutables: Mapping[str, Any] | None,
    step: Int[Array, ''] | int | None,
  ) -> tuple[Float[Array, ''], dict[str, Any]]:
    """The loss and its parts.

    Args:
      module: the reader.
      split_layer: of it.
      mode: how it encodes.
      params: parameters, differentiated by the caller.
      batch: model features; with codes of the passages in mode binary, the
        passages are read from these.
      dropout_rng: key for dropout and random token choice; None for neither.
      flax_mutables: in stage 2 {'teacher': parameters}.
      step: updates done, where signs are annealed.

    Returns:
      (loss, metrics): means per target token.

    Raises:
      ValueError: stage 2 without a teacher, annealing without a step, or codes
        of lower layers that would be trained.
    """
    rngs, choice_rng = {}, None
    if dropout_rng is not None:
      dropout_key, choice_rng = jax.random.split(dropout_rng)
      rngs = {'dropout': dropout_key}
    packed = packed_passages(batch, mode)
    if self.adapter_rank:
      params = adapters.only_adapters(params)
    if not self.train_lower:
      params = frozen.stop_below_split(params, split_layer)
    elif packed is not None:
      raise ValueError(
        'The batches hold passage_bits, codes of lower layers that this run '
        'would change. Set TRAIN_LOWER=False, or take batches without codes.'
      )
    # Where the lower layers and the codec stay, nothing can be recovered.
    recovers = mode == 'binary' and self.train_lower
    recovers = recovers and self.recovery_weight > 0
    beta = self._beta(step) if mode == 'binary' else None
    logits, encoded = module.apply(
      {'params': adapters.merged(params)},
      batch['question_tokens'],
      batch['passage_tokens'],
      batch['decoder_input_tokens'],
      mode,
      packed=packed,
      recover=recovers,
      beta=beta,
      deterministic=dropout_rng is None,
      trace=self.distils,
      rngs=rngs,
    )
    task_loss, accuracy = task_loss_of(logits, batch)
    loss = task_loss
    values = {'task_loss': task_loss, 'token_accuracy': accuracy}
    if self.distils:
      distill_loss = self._distill_loss(
        module, flax_mutables, batch, encoded, choice_rng
      )
      loss += distill_loss
      values['distill_loss'] = distill_loss
    if recovers:
      loss += self.recovery_weight * encoded.recovery
      values['recovery_loss'] = encoded.recovery
    if beta is not None:
      values['beta'] = beta
    return loss, averages(batch, loss=loss, **values)

  def _beta(self, step):
    if self.annealing is None:
      return None
    if step is None:
      raise ValueError(
        'Annealed signs depend on the step, which is None; pass loss_fn the '
        'updates done as step, or evaluate by eval_fn, which has hard signs.'
      )
    return straight_through.annealed_beta(
      step, self.annealing.train_steps, self.annealing.last_beta
    )

  def _distill_loss(self, module, mutables, batch, encoded, rng):
    if not mutables or TEACHER not in mutables:
      raise ValueError(
        "Stage 2 distils from a teacher; pass flax_mutables={'teacher': "
        'parameters of the stage-1 reader}.'
      )
    teacher = module.apply(
      {'params': adapters.merged(mutables[TEACHER])},
      batch['question_tokens'],
      batch['passage_tokens'],
      'joint',
      trace=True,
      method='encode',
    )
    passage_tokens = batch['passage_tokens']
    examples = passage_tokens.shape[0]

    def per_example(states):
      # [batch * passages, length, ...] -> [batch, passages * length, ...]
      return states.reshape((examples, -1) + states.shape[2:])

    selected = losses.select_tokens(
      per_example(teacher.trace.question_attention),
      passage_tokens.reshape(examples, -1) != reader_lib.PAD_ID,
      losses.DISTILL_FRACTION,
      self.distill_tokens,
      rng,
    )
    return losses.distillation(
      tuple(map(per_example, teacher.trace.passage_states)),
      tuple(map(per_example, encoded.trace.passage_states)),
      selected,
    )


def packed_passages(
  batch: Mapping[str, Array], mode: str
) -> token_codec.PackedCode | None:
  """Cached passages, where the batch has them and the mode reads them."""
  if mode != 'binary' or 'passage_bits' not in batch:
    return None
  return token_codec.PackedCode(batch['passage_bits'], batch['passage_scale'])


def task_loss_of(
  logits: Float[Array, 'batch answer_length vocab'],
  batch: Mapping[str, Array],
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Cross entropy and accuracy per target token of a batch."""
  return losses.cross_entropy(
    logits, batch['decoder_target_tokens'], batch['decoder_loss_weights']
  )


def averages(batch: Mapping[str, Array], **values: Array) -> dict[str, Any]:
  """clu averages of per-batch means, weighted by the batch's target tokens."""
  from clu import metrics as clu_metrics

  total = jnp.sum(batch['decoder_loss_weights'])
  return {
    name: clu_metrics.Average(total=value * total, count=total)
    for name, value in values.items()
  }
