"""The losses of the three training stages (BTR section 3.2).

Stage 1 is cross-entropy alone; stage 2 adds query-aware distillation of
passage tokens; stage 3 adds passage recovery, which the codec itself measures
(`TokenCodec.recovery_error`). All weights are 1, as in the paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax import config as config_lib
from btr_jax.models import layers

# Share of the passages' tokens that stage 2 distils, as in the paper.
DISTILL_FRACTION = 0.5


def cross_entropy(
  logits: Float[Array, 'batch length vocab'],
  target_tokens: Int[Array, 'batch length'],
  weights: Float[Array, 'batch length'],
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Mean cross-entropy (nats) per weighted target token, and the accuracy."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  target = jnp.take_along_axis(log_probs, target_tokens[..., None], axis=-1)
  total = jnp.maximum(jnp.sum(weights), 1.0)
  loss = -jnp.sum(target[..., 0] * weights) / total
  correct = (jnp.argmax(logits, axis=-1) == target_tokens) * weights
  return loss, jnp.sum(correct) / total


def select_tokens(
  question_attention: Float[Array, 'batch tokens'],
  mask: Bool[Array, 'batch tokens'],
  fraction: float,
  how: str = 'attention',
  rng: jax.Array | None = None,
) -> Bool[Array, 'batch tokens']:
  """Chooses the passage tokens of each example to distil.

  Args:
    question_attention: the teacher's attention from question to passage token,
      over all passages of the example.
    mask: real passage tokens.
    fraction: share of the real tokens to choose (paper: 0.5), rounded up.
    how: `attention` takes those attended to most, `random` any, `all` all,
      `none` none.
    rng: key for `random`.

  Returns:
    True for the chosen tokens.

  Raises:
    ValueError: unknown `how`, or `random` without a key.
  """
  config_lib.check_choice('distill_tokens', how, config_lib.TOKEN_SELECTIONS)
  if how == 'all':
    return mask
  if how == 'none':
    return jnp.zeros_like(mask)
  if how == 'random':
    if rng is None:
      raise ValueError(
        "distill_tokens='random' needs a random key; pass dropout_rng."
      )
    scores = jax.random.uniform(rng, mask.shape)
  else:
    scores = question_attention
  order = jnp.argsort(jnp.where(mask, -scores, jnp.inf), axis=-1)
  rank = jnp.argsort(order, axis=-1)
  wanted = jnp.ceil(fraction * jnp.sum(mask, axis=-1, keepdims=True))
  return mask & (rank < wanted)


def distillation(
  teacher_states: tuple[Float[Array, 'batch tokens embed'], ...],
  student_states: tuple[Float[Array, 'batch tokens embed'], ...],
  selected: Bool[Array, 'batch tokens'],
) -> Float[Array, '']:
  """Mean squared distance of the chosen tokens' states (paper, eq. 4).

  Averaged over the upper layers, the chosen tokens and the dimensions. States
  are divided by their root mean square first: T5's residual stream grows by
  orders of magnitude over the layers, and its raw distance would drown the
  task's loss.
  """
  weights = selected.astype(jnp.float32)
  total = jnp.maximum(jnp.sum(weights), 1.0)
  loss = 0.0
  for teacher, student in zip(teacher_states, student_states, strict=True):
    teacher = jax.lax.stop_gradient(teacher)
    teacher = teacher.astype(jnp.float32) / layers.root_mean_square(teacher)
    student = student.astype(jnp.float32) / layers.root_mean_square(student)
    distance = jnp.mean(jnp.square(teacher - student), axis=-1)
    loss += jnp.sum(distance * weights) / total
  return loss / len(teacher_states)
