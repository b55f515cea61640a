"""The three forms of cross-attention are one function, but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.evaluation import cost


@pytest.fixture(scope='module')
def reader(small_model, random_batch):
  model = small_model(1)
  params = model.get_initial_variables(jax.random.key(0), model.input_shapes())[
    'params'
  ]
  # Sharper logits than a fresh reader has, so that greedy choices are clear.
  params['decoder']['logits_dense']['kernel'] *= 4.0
  return model, params, random_batch(16)


def _forced(model, params, batch, form, beams=1):
  """Logits of all steps while the batch's tokens are fed."""
  inference = config_lib.InferenceConfig(form, num_beams=beams)

  @jax.jit
  def forced(params, batch):
    def apply(*arguments, method):
      return model.module.apply({'params': params}, *arguments, method=method)

    inputs = batch['decoder_input_tokens']
    encoded = model.encode(params, batch)
    cache, constants = apply(
      encoded, inputs.shape[1], inference, method='start_decoding'
    )

    def feed(cache, numbered):
      step, tokens = numbered
      tokens = jnp.repeat(tokens[:, None], beams, axis=1)
      logits, cache = apply(
        cache, constants, tokens, step, method='decode_step'
      )
      return cache, logits

    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)
    _, logits = jax.lax.scan(feed, cache, (steps, inputs.T))
    return jnp.moveaxis(logits, 0, 2)

  return forced(params, batch)


@pytest.mark.parametrize('form', config_lib.CROSS_ATTENTIONS)
def test_steps_equal_teacher_forcing(reader, form):
  model, params, batch = reader
  expected, _ = jax.jit(model.module.apply, static_argnums=4)(
    {'params': params},
    batch['question_tokens'],
    batch['passage_tokens'],
    batch['decoder_input_tokens'],
    'joint',
  )
  assert float(jnp.std(expected)) > 1
  found = _forced(model, params, batch, form)[:, 0]
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('form', config_lib.CROSS_ATTENTIONS)
def test_beams_read_one_memory(reader, form):
  model, params, batch = reader
  alone = _forced(model, params, batch, form)
  together = _forced(model, params, batch, form, beams=3)
  for beam in range(3):
    np.testing.assert_allclose(together[:, beam], alone[:, 0], atol=1e-4)


@pytest.mark.parametrize('beams', [1, 3])
def test_forms_answer_alike(reader, beams):
  """512 questions: the same tokens by greedy and by beam search."""
  model, params, _ = reader
  rng = np.random.default_rng(1)
  limits = model.limits
  batch = {
    'question_tokens': rng.integers(2, 48, (512, limits.question_length)),
    'passage_tokens': rng.integers(
      2, 48, (512, limits.num_passages, limits.passage_length)
    ),
  }
  batch = {name: jnp.asarray(v, jnp.int32) for name, v in batch.items()}
  encoded = jax.jit(model.encode)(params, batch)

  def answers(form):
    inference = config_lib.InferenceConfig(form, num_beams=beams)
    return jax.jit(
      lambda params, encoded: model.decode(params, encoded, inference=inference)
    )(params, encoded)

  expected, expected_scores = answers('cached')
  assert len(np.unique(np.asarray(expected), axis=0)) > 100
  for form in ('reproject', 'absorbed'):
    tokens, scores = answers(form)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)


def test_absorbed_while_it_is_less_work():
  auto = config_lib.InferenceConfig()
  assert auto.cross_attention_for(63, 64) == 'absorbed'
  assert auto.cross_attention_for(64, 64) == 'cached'
  four = config_lib.InferenceConfig(num_beams=4)
  assert four.cross_attention_for(16, 64) == 'cached'
  told = config_lib.InferenceConfig('reproject')
  assert told.cross_attention_for(8, 64) == 'reproject'
  with pytest.raises(ValueError, match="cross_attention is 'fast'"):
    config_lib.InferenceConfig('fast')
  with pytest.raises(ValueError, match='num_beams is 0'):
    config_lib.InferenceConfig(num_beams=0)
  with pytest.raises(ValueError, match='length_penalty is -1.0'):
    config_lib.InferenceConfig(length_penalty=-1.0)


def _program(reader, form):
  """Text of the whole program, before optimisation that might hide things."""
  model, params, batch = reader
  inference = config_lib.InferenceConfig(form)

  def answer(params, batch):
    encoded = model.encode(params, batch)
    return model.decode(params, encoded, inference=inference)

  return jax.jit(answer).lower(params, batch).as_text('hlo')


@pytest.mark.parametrize('form', ['cached', 'absorbed'])
def test_nothing_is_projected_inside_the_loop(reader, form):
  # As many numbers as the memory, heads x dimensions being embed here.
  model = reader[0]
  limits = model.limits
  length = limits.question_length + limits.passage_length
  memory = limits.num_passages * length
  projection = 16 * memory * model.config.embed_dim

  def projections(form):
    sizes = cost.products_in_loops(_program(reader, form))
    assert len(sizes) > 10  # It does see the decoder's own products.
    return sum(size >= projection for size in sizes)

  assert projections(form) == 0
  # The same reader re-projecting shows two of them per decoder layer.
  assert projections('reproject') == 2 * model.config.num_decoder_layers


def test_absorption_turns_no_weights_around_inside_the_loop(small_model):
  model = small_model(1, embed_dim=64)
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params']
  batch = {
    name: jax.ShapeDtypeStruct(shape, jnp.int32)
    for name, shape in (
      ('question_tokens', (1, model.limits.question_length)),
      ('passage_tokens', (1, 3, model.limits.passage_length)),
    )
  }

  def sizes(form):
    return cost.transpositions_in_loops(_program((model, shapes, batch), form))

  kernel = (
    model.config.embed_dim * model.config.num_heads * (model.config.head_dim)
  )
  assert sizes('reproject')  # Where there are some they are seen.
  assert max(sizes('absorbed'), default=0) < kernel
