"""Merging: ToMe's matching, and what must never merge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import attention as attention_lib
from btr_jax.models import merging

_match = jax.jit(merging.match, static_argnums=2)
_merge = jax.jit(merging.merge)


def _tome(features, states, sizes, count):
  """ToMe's algorithm for one sequence, token by token, from its paper.

  Returns:
    For each surviving column: its state, its size.
  """
  length = len(features)
  unit = [f / np.linalg.norm(f) for f in features]
  edges = []
  for a in range(0, length, 2):
    similar = [(float(unit[a] @ unit[b]), -b) for b in range(1, length, 2)]
    score, b = max(similar)
    edges.append((score, a, -b))
  edges.sort(key=lambda edge: -edge[0])
  weighted = {i: states[i] * sizes[i] for i in range(length)}
  total = dict(enumerate(sizes))
  for _, a, b in edges[:count]:
    weighted[b] = weighted[b] + states[a] * sizes[a]
    total[b] += sizes[a]
    del weighted[a], total[a]
  return {i: (weighted[i] / total[i], total[i]) for i in weighted}


def _tokens(kinds, sizes=None):
  kinds = jnp.asarray(kinds, jnp.int32)
  positions = jnp.arange(kinds.shape[1], dtype=jnp.int32)
  return merging.Tokens(
    kinds=kinds,
    positions=jnp.broadcast_to(positions, kinds.shape),
    sizes=jnp.ones(kinds.shape) if sizes is None else jnp.asarray(sizes),
  )


@pytest.mark.parametrize('length, count', [(12, 1), (12, 6), (17, 4)])
def test_equals_tome(length, count):
  rng = np.random.default_rng(length + count)
  features = rng.normal(size=(5, length, 7)).astype(np.float32)
  states = rng.normal(size=(5, length, 3)).astype(np.float32)
  sizes = rng.integers(1, 5, (5, length)).astype(np.float32)
  tokens = _tokens(np.zeros((5, length), np.int32), sizes)
  matching = _match(jnp.asarray(features), tokens.kinds, count)
  found, left = _merge(matching, jnp.asarray(states), tokens)
  for row in range(5):
    expected = _tome(features[row], states[row], sizes[row], count)
    np.testing.assert_array_equal(matching.kept[row], sorted(expected))
    for column, state, size in zip(
      left.positions[row], found[row], left.sizes[row], strict=True
    ):
      np.testing.assert_allclose(state, expected[int(column)][0], atol=1e-6)
      assert size == expected[int(column)][1]


def test_tokens_that_do_not_merge_stay_bit_for_bit():
  rng = np.random.default_rng(0)
  states = jnp.asarray(rng.normal(size=(2, 10, 4)), jnp.float32)
  tokens = _tokens(np.zeros((2, 10)))
  matching = _match(states, tokens.kinds, 2)
  found, left = _merge(matching, states, tokens)
  alone = np.asarray(left.sizes) == 1
  assert alone.sum() >= 12
  kept = np.take_along_axis(
    np.asarray(states), np.asarray(matching.kept)[..., None], axis=1
  )
  np.testing.assert_array_equal(np.asarray(found)[alone], kept[alone])


@pytest.mark.parametrize('text', range(0, 13))
def test_kinds_never_mix_and_padding_goes_first(text):
  """For every number of text tokens in twelve slots, at the highest ratio."""
  length = 12
  kinds = np.full((1, length), merging.PADDING)
  kinds[0, :text] = merging.TEXT
  # All alike: only the kinds can keep them apart.
  states = jnp.where(jnp.asarray(kinds)[..., None] == merging.TEXT, 1.0, -1.0)
  states = jnp.broadcast_to(states, (1, length, 4))
  count = merging.merge_count(length, 0.5)
  tokens = _tokens(kinds)
  matching = _match(jnp.ones((1, length, 4)), tokens.kinds, count)
  source = kinds[0, np.asarray(matching.source[0])]
  np.testing.assert_array_equal(
    source, kinds[0, np.asarray(matching.destination[0])]
  )
  found, left = _merge(matching, states, tokens)
  np.testing.assert_array_equal(
    found[0, :, 0], np.where(left.kinds[0] == merging.TEXT, 1.0, -1.0)
  )
  # No token is lost, and text only once padding has none left to give.
  assert float(left.sizes.sum()) == length
  text_merged = int((source == merging.TEXT).sum())
  padding = length - text
  assert text_merged <= max(0, count - padding // 2)
  assert float(left.sizes[left.kinds == merging.TEXT].sum()) == text


def test_counts_leave_a_token_of_each_kind():
  assert merging.merge_count(128, 0.2) == 25
  assert merging.merge_count(128, 0.5) == 61
  assert merging.merge_count(5, 0.5) == 0
  assert merging.merge_count(128, 0.0) == 0


@pytest.mark.parametrize(
  'reading, expected', [('every', [2, 5, 8, 11]), ('except', [0, 1, 3, 4])]
)
def test_both_readings_of_line_5(reading, expected):
  config = config_lib.MergingConfig(cross_ratio=0.2, cross_reading=reading)
  found = [layer for layer in range(12) if config.merges_at(layer)]
  assert found[:4] == expected
  assert len(found) == (4 if reading == 'every' else 8)


def test_bias_of_kept_positions():
  """Gathered for positions 0..n-1 it is the bias as it always was."""
  bias = attention_lib.RelativePositionBias(2, 8, 10, bidirectional=True)
  columns = np.arange(9, dtype=np.int32)
  variables = bias.init(jax.random.key(0), columns, columns)
  full = bias.apply(variables, columns, columns)
  positions = jnp.asarray([[0, 1, 2, 3], [2, 2, 5, 8]], jnp.int32)
  found = bias.apply(variables, positions, 8, method='gathered')
  for row in range(2):
    kept = np.asarray(positions[row])
    np.testing.assert_array_equal(found[row], full[0][:, kept][:, :, kept])


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(model, params, batch, inference):
  encoded = model.encode(params, batch, inference=inference)
  return encoded, model.decode(params, encoded, inference=inference)


def _answers(model, params, batch, **merging_values):
  inference = config_lib.InferenceConfig(
    merging=config_lib.MergingConfig(**merging_values)
  )
  encoded, (_, scores) = _read(model, params, batch, inference)
  return encoded, scores


@pytest.fixture(scope='module')
def reader(small_model, random_batch):
  limits = config_lib.InputLimits(6, 24, 4, 3)
  model = small_model(2, limits=limits, num_decoder_layers=4)
  params = model.get_initial_variables(jax.random.key(3), model.input_shapes())[
    'params'
  ]
  return model, params, random_batch(limits=limits)


def test_ratio_zero_is_no_merging(reader):
  model, params, batch = reader
  plain, plain_scores = _answers(model, params, batch)
  zero, zero_scores = _answers(
    model, params, batch, cross_period=2, proportional_attention=True
  )
  np.testing.assert_array_equal(plain.states, zero.states)
  np.testing.assert_array_equal(plain_scores, zero_scores)
  # The path that merges, told to merge nothing, says the same.
  tiny = 1 / 1000
  assert merging.merge_count(24, tiny) == 0
  same, same_scores = _answers(
    model, params, batch, intra_ratio=tiny, cross_ratio=tiny
  )
  np.testing.assert_allclose(plain.states, same.states, atol=1e-5)
  np.testing.assert_allclose(plain_scores, same_scores, atol=1e-5)


@pytest.mark.parametrize('proportional', [False, True])
def test_merging_within_passages(reader, proportional):
  model, params, batch = reader
  encoded, scores = _answers(
    model,
    params,
    batch,
    intra_ratio=0.25,
    proportional_attention=proportional,
  )
  # One upper layer here: 24 - 6 tokens and the question are left of each.
  assert encoded.states.shape[1] == 3 * (6 + 18)
  kinds = np.asarray(encoded.tokens.kinds)
  np.testing.assert_array_equal(kinds != merging.PADDING, encoded.mask)
  sizes = np.asarray(encoded.tokens.sizes)
  plain = model.encode(params, batch)
  question = np.asarray(batch['question_tokens'] != 0).sum(axis=1)
  for row in range(2):
    assert sizes[row].sum() == plain.mask.shape[1]
    real = np.asarray(plain.mask[row]).sum()
    assert sizes[row][kinds[row] != merging.PADDING].sum() == real
    present = np.any(np.asarray(batch['passage_tokens'][row]) != 0, axis=-1)
    assert (kinds[row] == merging.QUESTION).sum() == (
      question[row] * present.sum()
    )
  assert np.all(np.isfinite(scores))


def test_padding_changes_nothing_with_merging(reader):
  """Another missing passage: the text of the others merges as before."""
  model, params, batch = reader
  passages = batch['passage_tokens']
  padded = {
    **batch,
    'passage_tokens': jnp.pad(passages, ((0, 0), (0, 1), (0, 0))),
  }
  for values in ({'intra_ratio': 0.25}, {'intra_ratio': 0.4}):
    np.testing.assert_allclose(
      _answers(model, params, batch, **values)[1],
      _answers(model, params, padded, **values)[1],
      atol=1e-4,
    )


def test_merging_across_passages_shrinks_the_memory(reader):
  model, params, batch = reader
  inference = config_lib.InferenceConfig(
    merging=config_lib.MergingConfig(cross_ratio=0.25, cross_period=2)
  )
  encoded, (_, scores) = _read(model, params, batch, inference)

  def lengths():
    _, constants = model.module.apply(
      {'params': params}, encoded, 4, inference, method='start_decoding'
    )
    assert [m.form for m in constants.memories] == ['absorbed'] * 4
    return [m.bias for m in constants.memories]

  found = [bias.shape[-1] for bias in jax.eval_shape(lengths)]
  full = encoded.states.shape[1]
  once = full - merging.merge_count(full, 0.25)
  twice = once - merging.merge_count(once, 0.25)
  assert found == [full, once, once, twice]
  _, plain = _answers(model, params, batch)
  assert np.all(np.isfinite(scores)) and not np.allclose(scores, plain)


@pytest.mark.parametrize('form', ['reproject', 'absorbed'])
def test_merged_memory_reads_alike_in_every_form(reader, form):
  model, params, batch = reader

  def answers(form):
    inference = config_lib.InferenceConfig(
      form, config_lib.MergingConfig(0.25, 0.25, 2)
    )
    return _read(model, params, batch, inference)[1]

  tokens, scores = answers(form)
  expected_tokens, expected_scores = answers('cached')
  np.testing.assert_array_equal(tokens, expected_tokens)
  np.testing.assert_allclose(scores, expected_scores, atol=1e-4)


def test_bad_values_are_named():
  with pytest.raises(ValueError, match='intra_ratio is 0.6; expected 0 to'):
    config_lib.MergingConfig(intra_ratio=0.6)
  with pytest.raises(ValueError, match='cross_period is 0'):
    config_lib.MergingConfig(cross_period=0)
  with pytest.raises(ValueError, match="cross_reading is 'both'"):
    config_lib.MergingConfig(cross_reading='both')
