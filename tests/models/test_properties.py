"""What must hold of any reader, whatever its weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import token_codec


@pytest.fixture
def batch(random_batch):
  return random_batch()


def _params(model, seed=0):
  return model.get_initial_variables(
    jax.random.key(seed), model.input_shapes()
  )['params']


def _with_embedding(model, params, tokens, mode):
  """encode() as a function of each passage token's embedding."""
  embedding = params['token_embedder']['embedding']
  vocab_size = embedding.shape[0]
  # One row of its own for every token: gradients tell tokens apart.
  rows = jnp.take(embedding, tokens['passage_tokens'].reshape(-1), axis=0)

  def encode(rows):
    own = {
      **params,
      'token_embedder': {'embedding': jnp.concatenate([embedding, rows])},
    }
    numbers = vocab_size + jnp.arange(rows.shape[0], dtype=jnp.int32)
    numbers = numbers.reshape(tokens['passage_tokens'].shape)
    real = tokens['passage_tokens'] != 0
    batch = {**tokens, 'passage_tokens': jnp.where(real, numbers, 0)}
    config = dataclasses.replace(
      model.config, vocab_size=vocab_size + rows.shape[0]
    )
    wide = type(model)(config, model.limits, stage=1, mode=mode)
    return wide, own, batch

  return encode, rows


def test_lower_layers_isolate_passages_by_gradient(small_model, batch):
  """A passage's lower states depend on no other passage, nor the question."""
  model = small_model(stage=2)
  params = _params(model)
  encode, rows = _with_embedding(model, params, batch, 'decomposed')

  def states_of_first(rows):
    wide, own, tokens = encode(rows)
    passages = tokens['passage_tokens']
    flat = passages.reshape(-1, passages.shape[-1])
    states = wide.module.apply({'params': own}, flat, method='passage_states')
    return jnp.sum(jnp.square(states[0]))

  gradient = jax.grad(states_of_first)(rows)
  length = batch['passage_tokens'].shape[-1]
  assert float(jnp.abs(gradient[:length]).max()) > 0
  np.testing.assert_array_equal(gradient[length:], 0)


@pytest.mark.parametrize('mode', ['joint', 'decomposed'])
def test_encoder_isolates_passages_and_examples(small_model, batch, mode):
  """Fusion happens in the decoder: no encoder state sees another passage."""
  model = small_model(stage=1)
  params = _params(model)
  encode, rows = _with_embedding(model, params, batch, mode)
  per_passage = model.limits.question_length + model.limits.passage_length

  def output_of_first(rows):
    wide, own, tokens = encode(rows)
    encoded = wide.encode(own, tokens, mode)
    return jnp.sum(jnp.square(encoded.states[0, :per_passage]))

  gradient = jax.grad(output_of_first)(rows)
  length = model.limits.passage_length
  assert float(jnp.abs(gradient[:length]).max()) > 0
  np.testing.assert_array_equal(gradient[length:], 0)


@pytest.mark.parametrize('mode', config_lib.MODES)
def test_order_of_passages_does_not_matter(small_model, batch, mode):
  model = small_model(stage=3, codec='calibrated')
  params = _params(model)
  order = jnp.asarray([2, 0, 1])
  shuffled = {**batch, 'passage_tokens': batch['passage_tokens'][:, order]}
  model.mode = mode
  np.testing.assert_allclose(
    model.score_batch(params, batch),
    model.score_batch(params, shuffled),
    atol=1e-4,
  )


@pytest.mark.parametrize('mode', config_lib.MODES)
def test_padding_does_not_matter(small_model, batch, mode):
  """Longer limits and one more missing passage change no answer."""
  model = small_model(stage=3)
  params = _params(model)
  model.mode = mode
  padded = {
    **batch,
    'question_tokens': jnp.pad(batch['question_tokens'], ((0, 0), (3, 0))),
    'passage_tokens': jnp.pad(
      batch['passage_tokens'], ((0, 0), (0, 1), (0, 4))
    ),
  }
  np.testing.assert_allclose(
    model.score_batch(params, batch),
    model.score_batch(params, padded),
    atol=1e-4,
  )


@pytest.mark.parametrize(
  'kind, dial',
  [
    *((kind, {}) for kind in config_lib.CODECS),
    ('calibrated', {'scale_bits': 8}),
    ('residual', {'num_bits': 24, 'bits_per_dim': 2, 'window': 1}),
    ('residual', {'bits_per_dim': 4, 'window': 2, 'scale_bits': 8}),
    ('residual', {'bits_per_dim': 8}),
  ],
)
def test_cached_bits_equal_recomputed_bits(small_model, batch, kind, dial):
  model = small_model(stage=3, codec=kind, **dial)
  params = dict(_params(model))
  tokens = batch['passage_tokens'].reshape(-1, model.limits.passage_length)
  params = model.fit_codec(params, [np.asarray(tokens)])
  packed = model.encode_passages(params, tokens)
  layout = model.codec_layout
  assert packed['bits'].shape[-1] == layout.bits_bytes
  assert packed['scale'].shape[-1] == layout.scale_bytes
  shape = batch['passage_tokens'].shape
  cached = {
    **batch,
    'passage_bits': packed['bits'].reshape(shape + (layout.bits_bytes,)),
    'passage_scale': packed['scale'].reshape(shape + (layout.scale_bytes,)),
  }
  recomputed = model.encode(params, batch)
  looked_up = model.encode(params, cached)
  np.testing.assert_allclose(recomputed.states, looked_up.states, atol=1e-5)
  logits, cached_logits = (
    model.module.apply(
      {'params': params},
      encoded.states,
      encoded.mask,
      batch['decoder_input_tokens'],
      method=lambda module, *args: module.decoder(*args),
    )
    for encoded in (recomputed, looked_up)
  )
  np.testing.assert_allclose(logits, cached_logits, atol=1e-5)
  np.testing.assert_array_equal(
    model.predict_batch(params, batch), model.predict_batch(params, cached)
  )


def test_cached_bits_are_refused_outside_binary_mode(small_model, batch):
  model = small_model(stage=3)
  bits = jnp.zeros(batch['passage_tokens'].shape + (2,), jnp.uint8)
  with pytest.raises(ValueError, match="mode 'joint'.*only mode binary"):
    model.module.apply(
      {'params': _params(model)},
      batch['question_tokens'],
      batch['passage_tokens'],
      'joint',
      packed=token_codec.PackedCode(bits, bits),
      method='encode',
    )


@pytest.mark.parametrize('mode', config_lib.MODES)
def test_greedy_decoding_equals_teacher_forcing(small_model, batch, mode):
  """Step by step from the cache gives what the whole forward pass gives."""
  model = small_model(stage=3)
  params = _params(model)
  model.mode = mode
  answers, aux = model.predict_batch_with_aux(params, batch)
  inputs = jnp.pad(answers[:, :-1], ((0, 0), (1, 0)))
  logits, _ = model.module.apply(
    {'params': params},
    batch['question_tokens'],
    batch['passage_tokens'],
    inputs,
    mode,
  )
  ended = jnp.cumsum(inputs == 1, axis=1) > 0
  expected = jnp.where(ended, 0, jnp.argmax(logits, axis=-1))
  np.testing.assert_array_equal(answers, expected)
  forced = {
    **batch,
    'decoder_input_tokens': inputs,
    'decoder_target_tokens': answers,
    'decoder_loss_weights': (~ended).astype(jnp.float32),
  }
  np.testing.assert_allclose(
    aux['scores'], model.score_batch(params, forced), atol=1e-4
  )
