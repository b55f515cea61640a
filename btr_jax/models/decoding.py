"""Greedy decoding on the device, stopping when every answer has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PAD_ID = 0
EOS_ID = 1

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
