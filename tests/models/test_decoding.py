"""Greedy decoding, with a step function whose logits are written by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax.models import decoding

# What each example would say at each step, if it were never stopped.
SCRIPT = np.array([[5, 1, 7, 7, 7, 7], [4, 4, 6, 1, 8, 8]])


def _scripted_step(calls, tokens, step):
  del tokens
  chosen = jnp.asarray(SCRIPT)[:, step]
  return 3.0 * jax.nn.one_hot(chosen, 9), calls + 1


def test_stops_when_all_answers_have_ended():
  steps = []

  def step_fn(calls, tokens, step):
    logits, calls = _scripted_step(calls, tokens, step)
    jax.debug.callback(lambda calls: steps.append(int(calls)), calls)
    return logits, calls

  tokens, _ = decoding.greedy(step_fn, jnp.int32(0), batch=2, max_length=6)
  jax.effects_barrier()
  np.testing.assert_array_equal(
    tokens, [[5, 1, 0, 0, 0, 0], [4, 4, 6, 1, 0, 0]]
  )
  assert sorted(steps) == [1, 2, 3, 4]  # Not 6: the longest answer has four.


def test_stops_at_the_longest_length():
  tokens, _ = decoding.greedy(
    _scripted_step, jnp.int32(0), batch=2, max_length=3
  )
  np.testing.assert_array_equal(tokens, [[5, 1, 0], [4, 4, 6]])


def test_scores_count_the_tokens_of_the_answer_only():
  _, scores = decoding.greedy(
    _scripted_step, jnp.int32(0), batch=2, max_length=6
  )
  per_token = 3.0 - np.log(np.exp(3.0) + 8)
  np.testing.assert_allclose(scores, [2 * per_token, 4 * per_token], rtol=1e-5)


def test_feeds_back_what_it_chose():
  """An echo: the next token is the previous plus one."""

  def step_fn(state, tokens, step):
    del step
    return jax.nn.one_hot(tokens + 2, 20), state

  tokens, _ = decoding.greedy(step_fn, (), batch=1, max_length=4)
  np.testing.assert_array_equal(tokens, [[2, 4, 6, 8]])
