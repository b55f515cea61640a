"""Greedy decoding, with a step function whose logits are written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


VOCAB, LENGTH = 4, 3


def _table_step(table):
  """Logits depend on the last two tokens, which the state must carry."""

  def step_fn(state, tokens, step):
    del step
    batch, beams = tokens.shape
    before = state.reshape(batch, beams)
    logits = jnp.asarray(table)[
      jnp.arange(batch, dtype=jnp.int32)[:, None], before, tokens
    ]
    return logits, tokens.reshape(-1)

  return step_fn


def _all_answers(log_probs):
  """Every answer of one question with the sum of its log probabilities."""
  found = {}

  def extend(tokens, score, before, last):
    if len(tokens) == LENGTH or (tokens and tokens[-1] == decoding.EOS_ID):
      found[tuple(tokens)] = score
      return
    for token in range(VOCAB):
      extend(
        [*tokens, token], score + log_probs[before, last, token], last, token
      )

  extend([], 0.0, 0, 0)
  return found


@pytest.mark.parametrize('penalty', [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_answer(penalty):
  rng = np.random.default_rng(4)
  table = 2 * rng.normal(size=(8, VOCAB, VOCAB, VOCAB)).astype(np.float32)
  log_probs = np.asarray(jax.nn.log_softmax(table))
  beams = VOCAB ** (LENGTH - 1)  # No beginning is ever given up.
  tokens, scores = decoding.beam_search(
    _table_step(table),
    jnp.zeros((8 * beams,), jnp.int32),
    8,
    LENGTH,
    beams,
    penalty,
  )
  lengths = set()
  for row in range(8):
    answers = _all_answers(log_probs[row])
    best = max(answers, key=lambda a: answers[a] / len(a) ** penalty)
    lengths.add(len(best))
    expected = np.pad(best, (0, LENGTH - len(best)))
    np.testing.assert_array_equal(tokens[row], expected)
    np.testing.assert_allclose(scores[row], answers[best], rtol=1e-5)
  assert len(lengths) > 1


def test_beam_search_stops_when_nothing_can_overtake():
  """An end that is nearly certain: no second step."""
  steps = []

  def step_fn(state, tokens, step):
    jax.debug.callback(lambda step: steps.append(int(step)), step)
    logits = jnp.where(jnp.arange(VOCAB) == decoding.EOS_ID, 20.0, 0.0)
    return jnp.broadcast_to(logits, (*tokens.shape, VOCAB)), state

  tokens, _ = decoding.beam_search(step_fn, (), 2, 9, 2)
  jax.effects_barrier()
  assert sorted(steps) == [0]
  np.testing.assert_array_equal(tokens, [[1] + [0] * 8] * 2)
