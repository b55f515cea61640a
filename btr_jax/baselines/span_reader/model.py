"""The span reader as the trainer sees it: variables, losses, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp

from btr_jax import axes, losses
from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import network, spans

TEACHER = 'teacher'
STAGE_MODES = {1: 'joint', 2: 'decomposed', 3: 'binary'}
# Axes that no mesh splits, enough for a stack of matrices.
_REPLICATED = (axes.PASSAGES, axes.LENGTH, axes.EMBED)
Batch = Mapping[str, jax.Array]


class SpanModel:
  """One mode of the span reader; fulfils what `training/step.py` asks for.

  A batch holds every passage once, so that the lower layers of a passage with
  several questions run once where they do not see the question:

    question_tokens  int32 [batch, question_length]
    passage_tokens   int32 [unique passages, length]
    passage_of       int32 [batch, passages], rows of `passage_tokens`
    starts, ends     float32 [batch, passages, length], of right spans
    weights          float32 [batch], 0 for padding
  """

  def __init__(
    self,
    config: config_lib.SpanReaderConfig,
    stage: int = 1,
    *,
    distill_tokens: str = 'attention',
  ):
    """Chooses the mode and the losses of a stage.

    Args:
      config: of the reader.
      stage: 1 joint; 2 decomposed, distilled from the joint one; 3 binary,
        with the recovery loss.
      distill_tokens: stage 2: `attention` (those that the teacher's question
        attends to most), `all`, `random`, or `none`.
    """
    if stage not in STAGE_MODES:
      raise ValueError(f'stage is {stage!r}; expected 1, 2 or 3.')
    self.config = config
    self.stage = stage
    self.mode = STAGE_MODES[stage]
    self._distill_tokens = distill_tokens

  @property
  def distils(self) -> bool:
    """Whether the loss needs a teacher."""
    return self.stage == 2 and self._distill_tokens != 'none'

  def input_shapes(self, batch_size: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of a batch of one passage per question."""
    config = self.config
    targets = (batch_size, 1, config.passage_length)
    return {
      'question_tokens': (batch_size, config.question_length),
      'passage_tokens': (batch_size, config.passage_length),
      'passage_of': (batch_size, 1),
      'starts': targets,
      'ends': targets,
      'weights': (batch_size,),
    }

  def get_initial_variables(
    self, rng: jax.Array, input_shapes: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Parameters of zeros, for their shapes, and their axes: replicated.

    Readers start from trained encoders (`network.initial_params`).
    """
    del rng, input_shapes
    config = self.config
    encoder = network.zero_encoder(config)
    params = jax.tree.map(jnp.asarray, network.initial_params(encoder, config))
    names = jax.tree.map(
      lambda leaf: flax_partitioning.AxisMetadata(_REPLICATED[: leaf.ndim]),
      params,
    )
    variables = {'params': params, 'params_axes': names}
    if self.distils:
      variables |= {TEACHER: params, f'{TEACHER}_axes': names}
    return variables

  def states(
    self,
    params: network.Params,
    question_tokens: jax.Array,
    passage_tokens: jax.Array,
    passage_of: jax.Array,
    mode: str,
  ) -> tuple[jax.Array, jax.Array, jax.Array | float]:
    """States above layer k, and the error of recovery (0 but for binary).

    Returns:
      (questions [batch, passages, question_length, embed], passages [batch,
      passages, length, embed], mean error).
    """
    if mode == 'joint':
      return *network.joint_states(
        params, question_tokens, passage_tokens[passage_of], self.config
      ), 0.0
    question = network.encode_questions(params, question_tokens, self.config)
    passage = network.encode_passages(params, passage_tokens, self.config)
    error = 0.0
    if mode == 'binary':
      signs = network.to_signs(params, passage)
      real = (passage_tokens != network.PAD_ID).astype(jnp.float32)
      errors = network.recovery_error(params, signs, passage) * real
      error = jnp.sum(errors) / jnp.maximum(jnp.sum(real), 1.0)
      passage = network.from_signs(params, signs)
    shape = (passage_of.shape[0], passage_of.shape[1], *question.shape[1:])
    question = jnp.broadcast_to(question[:, None], shape)
    return question, passage[passage_of], error

  def forward(
    self, params: network.Params, batch: Batch, mode: str
  ) -> tuple[network.Scores, network.Trace, jax.Array | float]:
    """Scores, trace and error of recovery of a batch in any mode."""
    question, passage, error = self.states(
      params,
      batch['question_tokens'],
      batch['passage_tokens'],
      batch['passage_of'],
      mode,
    )
    scores, trace = network.read(
      params,
      batch['question_tokens'],
      question,
      batch['passage_tokens'][batch['passage_of']],
      passage,
      self.config,
    )
    return scores, trace, error

  def loss_fn(
    self,
    params: network.Params,
    batch: Batch,
    dropout_rng: jax.Array | None,
    flax_mutables: Mapping[str, Any] | None = None,
  ):
    """The stage's loss and metrics, as `BtrModel.loss_fn`."""
    if self.distils and TEACHER not in (flax_mutables or {}):
      raise ValueError(
        "Stage 2 distils from a teacher; pass flax_mutables={'teacher': "
        'parameters of the stage-1 reader}.'
      )
    scores, trace, error = self.forward(params, batch, self.mode)
    task = spans.loss(scores, batch['starts'], batch['ends'], batch['weights'])
    total, values = task, {'task_loss': task}
    if self.distils:
      _, taught, _ = self.forward(flax_mutables[TEACHER], batch, 'joint')
      values['distill_loss'] = self._distill(taught, trace, batch, dropout_rng)
      total += values['distill_loss']
    if self.mode == 'binary':
      values['recovery_loss'] = error
      total += error
    metrics = _averages(jnp.sum(batch['weights']), loss=total, **values)
    if flax_mutables:
      return total, (metrics, flax_mutables)
    return total, metrics

  def _distill(self, teacher, student, batch, rng):
    tokens = batch['passage_tokens'][batch['passage_of']]

    def per_example(states):
      # [batch, passages, length, ...] -> [batch, passages * length, ...]
      return states.reshape(states.shape[0], -1, *states.shape[3:])

    real = per_example(tokens != network.PAD_ID)
    selected = losses.select_tokens(
      per_example(teacher.question_attention),
      real & (batch['weights'] > 0)[:, None],
      losses.DISTILL_FRACTION,
      self._distill_tokens,
      rng,
    )
    return losses.distillation(
      tuple(map(per_example, teacher.passage_states)),
      tuple(map(per_example, student.passage_states)),
      selected,
    )


def _averages(count, **values):
  """clu averages of per-batch means, weighted by the batch's questions."""
  from clu import metrics as clu_metrics

  return {
    name: clu_metrics.Average(total=value * count, count=count)
    for name, value in values.items()
  }
