"""What is read in groups, or laid out beforehand, is the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import absorbed, adapters, layers
from btr_jax.serving import programs as programs_lib


def _reader(small_model, stage=3, **overrides):
  model = small_model(stage, **overrides)
  variables = model.get_initial_variables(
    jax.random.key(0), model.input_shapes()
  )
  return model, variables['params']


def test_group_size():
  assert layers.group_size(40, None, 160) == 40
  assert layers.group_size(40, 768, 160) == 4
  assert layers.group_size(40, 10**9, 160) == 40
  assert layers.group_size(37, 768, 160) == 1
  assert layers.group_size(40, 100, 160) == 1
  assert layers.group_size(6400, 768) == 640
  assert layers.group_size(6397, 768) == 6397  # A prime.


@pytest.mark.parametrize(
  ('mode', 'ratio'),
  [('joint', 0.0), ('decomposed', 0.0), ('binary', 0.0), ('binary', 0.2)],
)
def test_passages_in_groups_are_the_passages(
  small_model, random_batch, mode, ratio
):
  model, params = _reader(small_model)
  batch = random_batch(4)
  if mode == 'binary':
    packed = model.encode_passages(
      params, batch['passage_tokens'].reshape(-1, 10)
    )
    shape = batch['passage_tokens'].shape
    batch['passage_bits'] = packed['bits'].reshape(*shape, -1)
    batch['passage_scale'] = packed['scale'].reshape(*shape, -1)
  merging = config_lib.MergingConfig(ratio, 0.0)
  inference = config_lib.InferenceConfig(merging=merging)

  def encoded(tokens_at_once):
    return jax.jit(
      lambda params: model.encode(
        params,
        batch,
        mode,
        dataclasses.replace(inference, tokens_at_once=tokens_at_once),
      )
    )

  # Twelve sequences of sixteen tokens: all of them, and three.
  whole, few = encoded(None)(params), encoded(48)(params)
  assert 'while' not in encoded(None).lower(params).as_text()
  assert 'while' in encoded(48).lower(params).as_text()
  np.testing.assert_array_equal(few.mask, whole.mask)
  np.testing.assert_allclose(few.states, whole.states, atol=1e-5)
  if ratio:
    np.testing.assert_array_equal(few.tokens.sizes, whole.tokens.sizes)


def test_rows_in_groups_are_the_rows(small_model, random_batch):
  model, params = _reader(small_model, stage=1)
  encoded = jax.jit(model.encode)(params, random_batch(4))

  def answers(tokens_at_once):
    inference = config_lib.InferenceConfig(
      'cached', tokens_at_once=tokens_at_once
    )
    return jax.jit(
      lambda params: model.decode(params, encoded, inference=inference)
    )(params)

  expected, scores = answers(None)
  found, found_scores = answers(64)
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_allclose(found_scores, scores, atol=1e-5)


def test_transposed_memory_says_the_same(small_model):
  model, params = _reader(small_model, stage=1)
  rng = np.random.default_rng(0)
  queries, memory = (
    jnp.asarray(rng.standard_normal(shape), jnp.float32)
    for shape in ((3, 2, 16), (3, 20, 16))
  )
  bias = jnp.where(jnp.arange(20) < 17, 0.0, -1e9)[None, None, None]

  def attend(reader, transposed):
    attention = reader.decoder.layers[0].encoder_decoder_attention
    kernels = attention.absorbing_kernels()
    return attention.attend_absorbed(queries, memory, bias, kernels, transposed)

  expected, found = (
    model.module.apply({'params': params}, transposed, method=attend)
    for transposed in (None, memory.transpose(0, 2, 1))
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kernels_laid_out_beforehand(small_model, random_batch):
  model, params = _reader(small_model, stage=1)
  batch = random_batch(3)
  programs = programs_lib.Programs(
    model, params, 'joint', config_lib.InferenceConfig('absorbed')
  )
  assert absorbed.GROUP in programs.params
  assert absorbed.GROUP not in params
  found = programs.run('answer', batch)
  without = programs.answer(params, batch)
  np.testing.assert_array_equal(found, without)
  other = programs_lib.Programs(
    model, params, 'joint', config_lib.InferenceConfig('cached')
  )
  assert absorbed.GROUP not in other.params
  np.testing.assert_array_equal(other.run('answer', batch), found)


def test_kernels_that_programs_work_out_stay(small_model):
  model, params = _reader(small_model, stage=1)
  adapted = {**params, adapters.GROUP: {}}
  assert absorbed.prepared(adapted, 2) is adapted
  decoder = jax.tree.map(lambda leaf: leaf, params['decoder'])
  key = decoder['layers_0']['encoder_decoder_attention']['key']
  key['kernel'] = {'codes': key['kernel'], 'scale': key['kernel']}
  quantized = {**params, 'decoder': decoder}
  assert absorbed.prepared(quantized, 2) is quantized


def test_tokens_at_once_is_checked():
  with pytest.raises(ValueError, match='tokens_at_once is 0'):
    config_lib.InferenceConfig(tokens_at_once=0)
