"""What the residual codec's statistics find, on states with a known law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import codec_fit, codecs

EMBED, VOCAB = 16, 48


@pytest.fixture(scope='module')
def embedding():
  return np.random.default_rng(0).normal(size=(VOCAB, EMBED)).astype(np.float32)


@pytest.fixture(scope='module')
def states_of(embedding):
  """A map of the token's embedding, and of its right neighbour's."""
  rng = np.random.default_rng(1)
  own, right = rng.normal(size=(2, EMBED, EMBED))

  def states(tokens):
    after = np.concatenate([tokens[:, 1:], np.zeros_like(tokens[:, :1])], 1)
    noise = np.random.default_rng(int(tokens.sum())).normal(
      size=tokens.shape + (EMBED,)
    )
    found = embedding[tokens] @ own + 0.7 * embedding[after] @ right
    return (30 * (found + 0.3 * noise)).astype(np.float32)

  return states


def _tokens(seed, low=1, rows=96):
  rng = np.random.default_rng(seed)
  return rng.integers(low, VOCAB, (rows, 12)).astype(np.int32)


def _error(small_config, states_of, embedding, codec, fit_on, test_on, how):
  config = dataclasses.replace(small_config('residual'), codec=codec)
  params = codec_fit.fit_residual_codec(
    states_of, np.split(fit_on, 8), config, embedding, how
  )
  bound = codecs.make_codec(config).bind(
    {'params': jax.tree.map(jnp.asarray, params)}
  )
  ones, tokens = jnp.ones(EMBED), jnp.asarray(test_on)
  states = jnp.asarray(states_of(test_on))
  code = bound.unpack(bound.pack(bound.encode(states, tokens, ones)))
  decoded = bound.decode(code, tokens, ones)
  return float(jnp.sum((decoded - states) ** 2) / jnp.sum(states**2))


def test_neighbours_tell_what_the_token_does_not(
  small_config, states_of, embedding
):
  errors = [
    _error(
      small_config,
      states_of,
      embedding,
      config_lib.CodecConfig('residual', 8, window=window),
      _tokens(2),
      _tokens(3),
      'both',
    )
    for window in (0, 1)
  ]
  assert errors[1] < 0.5 * errors[0]


def test_more_bits_per_direction_lose_less(small_config, states_of, embedding):
  errors = [
    _error(
      small_config,
      states_of,
      embedding,
      config_lib.CodecConfig('residual', bits_per_dim=bits),
      _tokens(2),
      _tokens(3),
      'both',
    )
    for bits in (1, 2, 4, 8)
  ]
  # A normal variable by 1, 2, 4, 8 bits: .36, .12, .012, .0001 of its square;
  # from four bits on the bytes of the scales are what is lost.
  assert errors[1] < 0.5 * errors[0]
  assert errors[2] < 0.3 * errors[1]
  assert errors[3] < errors[2]


@pytest.mark.parametrize('how', ['both', 'embedding'])
def test_an_id_that_was_never_seen_is_predicted_by_its_embedding(
  small_config, states_of, embedding, how
):
  seen = _tokens(4, low=9)
  unseen = (_tokens(5) % 8 + 1).astype(np.int32)
  codec = config_lib.CodecConfig('residual', 8)
  arguments = (small_config, states_of, embedding, codec, seen, unseen)
  assert _error(*arguments, how) < 0.8 * _error(*arguments, 'mean')


def test_shapes_are_those_of_the_parameters(small_config, embedding, states_of):
  config = small_config('residual', num_bits=24, bits_per_dim=2, window=2)
  fitted = codec_fit.fit_residual_codec(
    states_of, [_tokens(2, rows=4)], config, embedding
  )
  codec = codecs.make_codec(config)
  tokens = jnp.ones((1, 3), jnp.int32)
  expected = jax.eval_shape(
    lambda: codec.init(
      jax.random.key(0),
      jnp.ones((1, 3, EMBED)),
      tokens,
      jnp.ones(EMBED),
      method='encode',
    )
  )['params']
  found = {name: value.shape for name, value in fitted.items()}
  assert found == {name: value.shape for name, value in expected.items()}


def test_fitting_on_padding_alone_is_refused(small_config, embedding):
  tokens = np.zeros((2, 4), np.int32)
  with pytest.raises(ValueError, match='No passage tokens to fit'):
    codec_fit.fit_residual_codec(
      lambda tokens: np.zeros(tokens.shape + (EMBED,), np.float32),
      [tokens],
      small_config('residual'),
      embedding,
    )


def test_means_alone_have_no_neighbours(small_config, states_of):
  with pytest.raises(ValueError, match='no table for neighbours'):
    codec_fit.fit_residual_codec(
      states_of,
      [_tokens(2)],
      small_config('residual', window=1),
      prediction='mean',
    )


def test_a_prediction_from_nothing_is_refused(small_config, states_of):
  with pytest.raises(ValueError, match='needs the embedding'):
    codec_fit.fit_residual_codec(
      states_of, [_tokens(2)], small_config('residual')
    )
