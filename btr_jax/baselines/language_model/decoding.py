"""Greedy answers on the device: the prompts at once, then token by token."""

from __future__ import annotations

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax.baselines.language_model import model as model_lib


@struct.dataclass
class Stops:
  """Which tokens end an answer.

  Attributes:
    ends: of the model: end of text, end of turn.
    breaks: whose text holds a line break; they end an answer that has begun.
    blank: whose text is blanks and breaks alone; they begin no answer.
  """

  ends: Bool[Array, 'vocab']
  breaks: Bool[Array, 'vocab']
  blank: Bool[Array, 'vocab']


def greedy(
  model: model_lib.LanguageModel,
  params: Any,
  tokens: Int[Array, 'batch length'],
  mask: Bool[Array, 'batch length'],
  stops: Stops,
  max_length: int,
) -> tuple[
  Int[Array, 'batch max_length'],
  Int[Array, 'batch'],
  Float[Array, 'batch'],
]:
  """Takes the most probable token until every answer has ended.

  Args:
    model: the language model.
    params: its parameters.
    tokens: prompts, padded on the left.
    mask: real tokens.
    stops: of the vocabulary.
    max_length: tokens of an answer at most, the one that ends it included.

  Returns:
    Tokens, how many of them are the answer's (with the one that ended it),
    and the sum of their log probabilities.
  """
  variables = {'params': params}
  batch = tokens.shape[0]
  logits, cache = model.apply(
    variables, tokens, mask, max_length - 1, method='prefill'
  )

  def take(logits, step, answers, lengths, scores, begun, done):
    chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    best = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    answers = answers.at[:, step].set(jnp.where(done, 0, chosen))
    lengths = lengths + (~done).astype(jnp.int32)
    scores = scores + jnp.where(done, 0.0, best)
    # Some models write line breaks before they begin.
    begun = begun | ~stops.blank[chosen]
    done = done | stops.ends[chosen] | (stops.breaks[chosen] & begun)
    return answers, lengths, scores, begun, done

  def unfinished(carry):
    step, *_, done = carry
    return (step < max_length) & ~jnp.all(done)

  def advance(carry):
    step, cache, answers, *rest = carry
    logits, cache = model.apply(
      variables, answers[:, step - 1], cache, method='step'
    )
    taken = take(logits, step, answers, *rest)
    return step + 1, cache, *taken

  taken = take(
    logits,
    jnp.int32(0),
    jnp.zeros((batch, max_length), jnp.int32),
    jnp.zeros((batch,), jnp.int32),
    jnp.zeros((batch,), jnp.float32),
    jnp.zeros((batch,), bool),
    jnp.zeros((batch,), bool),
  )
  carry = jax.lax.while_loop(unfinished, advance, (jnp.int32(1), cache, *taken))
  _, _, answers, lengths, scores, *_ = carry
  return answers, lengths, scores
