"""Greedy and beam search on the device, stopping when no answer can change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PAD_ID = 0
EOS_ID = 1
# Score of a beam that is not there.
_NONE = -1e9

State = TypeVar('State')


def greedy(
  step_fn: Callable[[State, jax.Array, jax.Array], tuple[jax.Array, State]],
  state: State,
  batch: int,
  max_length: int,
) -> tuple[Int[Array, 'batch max_length'], Float[Array, 'batch']]:
  """Takes the most probable token at each step.

  Args:
    step_fn: (state, tokens [batch], step) -> (logits [batch, vocab], state).
    state: what step_fn carries along (the decoder's cache).
    batch: number of answers decoded together.
    max_length: tokens at most, end of sequence included.

  Returns:
    Tokens, 0 after the end-of-sequence token, and the sum of the log
    probabilities of each answer's tokens.
  """

  def unfinished(carry):
    step, _, _, _, done, _ = carry
    return (step < max_length) & ~jnp.all(done)

  def advance(carry):
    step, state, tokens, scores, done, previous = carry
    logits, state = step_fn(state, previous, step)
    chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    best = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.where(done, PAD_ID, chosen)
    scores = scores + jnp.where(done, 0.0, best)
    tokens = tokens.at[:, step].set(chosen)
    done = done | (chosen == EOS_ID)
    return step + 1, state, tokens, scores, done, chosen

  start = (
    jnp.int32(0),
    state,
    jnp.zeros((batch, max_length), jnp.int32),
    jnp.zeros((batch,), jnp.float32),
    jnp.zeros((batch,), bool),
    jnp.full((batch,), PAD_ID, jnp.int32),
  )
  _, _, tokens, scores, _, _ = jax.lax.while_loop(unfinished, advance, start)
  return tokens, scores


def beam_search(
  step_fn: Callable[[State, jax.Array, jax.Array], tuple[jax.Array, State]],
  state: State,
  batch: int,
  max_length: int,
  num_beams: int,
  length_penalty: float = 1.0,
) -> tuple[Int[Array, 'batch max_length'], Float[Array, 'batch']]:
  """Keeps the `num_beams` most probable beginnings at each step.

  Answers are ranked by score / length ** length_penalty. One that has ended
  competes with all others; one that is cut at max_length competes as it is.
  The search stops when nothing that has not ended can overtake the best that
  has, which loses nothing.

  Args:
    step_fn: (state, tokens [batch, beams], step) -> (logits [batch, beams,
      vocab], state).
    state: arrays whose first axis counts batch, beams, and perhaps more, in
      this order; reordered as beams change places.
    batch: number of questions.
    max_length: tokens at most, end of sequence included.
    num_beams: beginnings kept.
    length_penalty: 0 ranks by probability alone; larger prefers long answers;
      not negative.

  Returns:
    The best answer of each question: tokens, 0 after the end-of-sequence
    token, and the sum of their log probabilities.
  """
  rows = jnp.arange(batch, dtype=jnp.int32)[:, None]

  def ranked(scores, length):
    return scores / jnp.float32(length) ** length_penalty

  def reorder(leaf, parents):
    by_beam = leaf.reshape(batch, num_beams, -1)
    return by_beam[rows, parents].reshape(leaf.shape)

  def unfinished(carry):
    step, _, _, scores, _, _, best_rank = carry
    # Scores are negative and only fall; divided by the most they rank highest.
    hope = ranked(jnp.max(scores, axis=-1), max_length)
    return (step < max_length) & jnp.any(hope > best_rank)

  def advance(carry):
    step, state, tokens, scores, best, best_score, best_rank = carry
    # Before the first step this is the last column, still all PAD_ID.
    previous = tokens[:, :, step - 1]
    logits, state = step_fn(state, previous, step)
    scores = scores[:, :, None] + jax.nn.log_softmax(logits)
    # The best beam that ends here, against the best that ended before.
    ending = scores[:, :, EOS_ID]
    winner = jnp.argmax(ending, axis=1)
    score = jnp.max(ending, axis=1)
    rank = ranked(score, step + 1)
    better = rank > best_rank
    ended = tokens[rows[:, 0], winner].at[:, step].set(EOS_ID)
    best = jnp.where(better[:, None], ended, best)
    best_score = jnp.where(better, score, best_score)
    best_rank = jnp.where(better, rank, best_rank)
    # Those that go on.
    going = scores.at[:, :, EOS_ID].set(_NONE).reshape(batch, -1)
    scores, places = jax.lax.top_k(going, num_beams)
    vocab = logits.shape[-1]
    parents, chosen = places // vocab, (places % vocab).astype(jnp.int32)
    tokens = tokens[rows, parents].at[:, :, step].set(chosen)
    state = jax.tree.map(lambda leaf: reorder(leaf, parents), state)
    return step + 1, state, tokens, scores, best, best_score, best_rank

  # All beams are alike at first: one is enough.
  first = jnp.where(jnp.arange(num_beams) == 0, 0.0, _NONE)
  start = (
    jnp.int32(0),
    state,
    jnp.zeros((batch, num_beams, max_length), jnp.int32),
    jnp.broadcast_to(first, (batch, num_beams)),
    jnp.zeros((batch, max_length), jnp.int32),
    jnp.full((batch,), _NONE, jnp.float32),
    jnp.full((batch,), -jnp.inf, jnp.float32),
  )
  _, _, tokens, scores, best, best_score, best_rank = jax.lax.while_loop(
    unfinished, advance, start
  )
  cut = ranked(scores[:, 0], max_length) > best_rank
  return (
    jnp.where(cut[:, None], tokens[:, 0], best),
    jnp.where(cut, scores[:, 0], best_score),
  )
