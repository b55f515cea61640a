"""The cache, the padding, the stopping: each against doing without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.language_model import decoding, parameters
from btr_jax.baselines.language_model import model as model_lib


@pytest.fixture(scope='module')
def tiny(lm_config, lm_params):
  config = lm_config()
  model = model_lib.LanguageModel(config)
  params = lm_params(config)
  over_all = jax.jit(
    lambda tokens, mask: model.apply({'params': params}, tokens, mask)
  )
  return model, params, over_all


def _prompts(lengths=(9, 5, 1), length=9):
  generator = np.random.default_rng(1)
  tokens = generator.integers(1, 330, (len(lengths), length)).astype(np.int32)
  mask = np.arange(length)[None] >= length - np.array(lengths)[:, None]
  return tokens, mask


def test_padding_changes_nothing(tiny):
  """Nor what stands in it, nor what stands later."""
  _, _, over_all = tiny
  tokens, mask = _prompts()
  logits = over_all(tokens, mask)
  other = np.where(mask, tokens, 7)
  other[:, -1] = 5
  np.testing.assert_allclose(
    np.asarray(over_all(other, mask))[:, :-1][mask[:, :-1]],
    np.asarray(logits)[:, :-1][mask[:, :-1]],
    atol=1e-5,
  )
  alone = np.zeros_like(tokens)
  alone_mask = np.zeros_like(mask)
  alone[:, -5:], alone_mask[:, -5:] = tokens[1, 4:], True
  np.testing.assert_allclose(
    np.asarray(over_all(alone, alone_mask))[0, -5:],
    np.asarray(logits)[1, -5:],
    atol=1e-5,
  )


def test_greedy_takes_what_the_whole_model_would(tiny):
  """Prefill, cache and positions against computing everything anew."""
  model, params, over_all = tiny
  tokens, mask = _prompts()
  room = 6
  width = tokens.shape[1]
  # The same shape at each step: padding on the right is never seen.
  whole = np.pad(tokens, ((0, 0), (0, room)))
  whole_mask = np.pad(mask, ((0, 0), (0, room)))
  scores = np.zeros(len(tokens))
  for column in range(width, width + room):
    whole_mask[:, column] = True
    logits = np.asarray(over_all(whole, whole_mask))[:, column - 1]
    whole[:, column] = logits.argmax(-1)
    scores += np.asarray(jax.nn.log_softmax(logits, -1)).max(-1)
  expected = whole[:, width:]

  def table(tokens):
    return np.isin(np.arange(330), tokens)

  def run(ends, breaks=(), blank=()):
    stops = decoding.Stops(*map(jnp.asarray, map(table, (ends, breaks, blank))))
    return decode(params, tokens, mask, stops)

  decode = jax.jit(
    lambda params, tokens, mask, stops: decoding.greedy(
      model, params, tokens, mask, stops, room
    )
  )
  answers, lengths, found = map(np.asarray, run([]))
  np.testing.assert_array_equal(answers, expected)
  np.testing.assert_array_equal(lengths, room)
  np.testing.assert_allclose(found, scores, rtol=1e-4)

  # Ended by a token: it counts, what follows is empty.
  end = int(expected[0, 2])
  answers, lengths, _ = map(np.asarray, run([end]))
  for row in range(len(tokens)):
    places = np.flatnonzero(expected[row] == end)
    length = places[0] + 1 if len(places) else room
    assert lengths[row] == length
    np.testing.assert_array_equal(answers[row, :length], expected[row, :length])
    assert not answers[row, length:].any()

  # A line break ends an answer, but not before it has begun.
  first = int(expected[0, 0])
  assert np.asarray(run([first])[1])[0] == 1
  assert np.asarray(run([], [first])[1])[0] == 1
  visible = np.flatnonzero(expected[0] != first)
  _, lengths, _ = map(np.asarray, run([], [first], [first]))
  again = np.flatnonzero(expected[0] == first)
  again = again[again > visible[0]] if len(visible) else []
  assert lengths[0] == (again[0] + 1 if len(again) else room)


def test_axes_and_shapes(lm_config):
  """Names, shapes and logical axes; keys are fewer than queries."""
  from flax import traverse_util

  variables = parameters.abstract_variables(lm_config())
  shapes = traverse_util.flatten_dict(variables['params'], sep='/')
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  found = {
    name: (value.shape, tuple(axes[f'{name}_axes'].names))
    for name, value in shapes.items()
    if not name.startswith('layers_1')
  }
  assert found == {
    'token_embedder/embedding': ((330, 32), ('vocab', 'embed')),
    'layers_0/attention_norm/scale': ((32,), ('embed',)),
    'layers_0/attention/query/kernel': ((32, 32), ('embed', 'joined_kv')),
    'layers_0/attention/key/kernel': ((32, 16), ('embed', 'joined_kv')),
    'layers_0/attention/value/kernel': ((32, 16), ('embed', 'joined_kv')),
    'layers_0/attention/out/kernel': ((32, 32), ('joined_kv', 'embed')),
    'layers_0/mlp_norm/scale': ((32,), ('embed',)),
    'layers_0/mlp/gate/kernel': ((32, 64), ('embed', 'mlp')),
    'layers_0/mlp/up/kernel': ((32, 64), ('embed', 'mlp')),
    'layers_0/mlp/down/kernel': ((64, 32), ('mlp', 'embed')),
    'norm/scale': ((32,), ('embed',)),
    'logits_dense/kernel': ((32, 330), ('embed', 'vocab')),
  }
  tied = parameters.shapes(lm_config(logits_via_embedding=True))
  assert 'logits_dense/kernel' not in tied
