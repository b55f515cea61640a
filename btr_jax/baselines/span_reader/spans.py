"""Spans: their loss over all passages of a question, and the best one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from btr_jax.baselines.span_reader.network import Scores


class Spans(NamedTuple):
  """The best span of every question.

  Attributes:
    passage: which of the question's passages.
    start: its first token.
    end: its last token.
    score: start and end added; comparable among passages of a question.
  """

  passage: Int32[Array, 'batch']
  start: Int32[Array, 'batch']
  end: Int32[Array, 'batch']
  score: Float32[Array, 'batch']


def loss(
  scores: Scores,
  starts: Float32[Array, 'batch passages length'],
  ends: Float32[Array, 'batch passages length'],
  weights: Float32[Array, 'batch'],
) -> Float32[Array, '']:
  """Mean negative log-likelihood of the starts and ends of right spans.

  Normalised over the tokens of all passages of a question at once ("shared
  normalisation", Clark and Gardner 2018), so that scores of passages compare;
  the probability of several right places adds up.

  Args:
    scores: of `network.read`.
    starts: 1 where a right answer begins, else 0.
    ends: 1 where one ends.
    weights: of the questions; 0 for padding.
  """

  def negative_log(values, right):
    flat = values.reshape(values.shape[0], -1)
    log_probabilities = jax.nn.log_softmax(flat, axis=-1)
    chosen = right.reshape(flat.shape) > 0
    # Rows of padding have no right place; they weigh nothing.
    chosen = jnp.where(weights[:, None] > 0, chosen, True)
    return -jax.nn.logsumexp(
      jnp.where(chosen, log_probabilities, -jnp.inf), axis=-1
    )

  values = negative_log(scores.start, starts) + negative_log(scores.end, ends)
  total = jnp.maximum(jnp.sum(weights), 1.0)
  return jnp.sum(values * weights) / (2.0 * total)


def best(scores: Scores, answer_length: int) -> Spans:
  """The span of at most `answer_length` tokens with the highest score.

  Exact: all spans of all passages are looked at. Of equal ones the first
  passage, then the shortest, then the first wins.
  """
  start, end = scores.start, scores.end
  length = start.shape[-1]
  widths = []
  for width in range(min(answer_length, length)):
    shifted = jnp.pad(
      end[..., width:], ((0, 0), (0, 0), (0, width)), constant_values=-jnp.inf
    )
    widths.append(start + shifted)
  table = jnp.stack(widths, axis=2)  # [batch, passages, widths, length]
  flat = table.reshape(table.shape[0], -1)
  place = jnp.argmax(flat, axis=-1).astype(jnp.int32)
  passage, rest = jnp.divmod(place, len(widths) * length)
  width, first = jnp.divmod(rest, length)
  return Spans(passage, first, first + width, jnp.max(flat, axis=-1))
