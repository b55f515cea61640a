"""Folders and GGUF files give the same parameters, or say what is wrong."""

import json

from flax import traverse_util
import ml_dtypes
import numpy as np
import pytest

from btr_jax.baselines.language_model import descriptions, files, rope
from btr_jax.interop import safetensors_files
from btr_jax.interop.checkpoint import ConversionError


def assert_same(found, expected):
  found = traverse_util.flatten_dict(found, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value))


def test_sharded_folder(lm_config, lm_params, write_folder):
  config = lm_config()
  params = lm_params(config)
  folder = write_folder(config, params, max_bytes=60_000)
  assert len(list(folder.glob('*.safetensors'))) > 2
  found = files.load_folder(folder)
  assert found.config == config
  assert_same(found.params, params)
  assert found.tokenizer.end_ids == (0, 2)
  size = sum(v.size for v in traverse_util.flatten_dict(params).values())
  assert found.stored_bytes == 4 * size


def test_bfloat16_stays_bfloat16(lm_config, lm_params, write_folder):
  config = lm_config(dtype='bfloat16', logits_via_embedding=True)
  params = lm_params(config)
  folder = write_folder(config, params)
  assert_same(files.load_folder(folder, 'bfloat16').params, params)
  wide = files.load_folder(folder).params
  scale = wide['norm']['scale']
  assert scale.dtype == np.float32
  np.testing.assert_array_equal(
    np.asarray(scale).astype(ml_dtypes.bfloat16), params['norm']['scale']
  )


@pytest.mark.parametrize('tied', [False, True])
def test_gguf_gives_what_the_folder_gives(
  lm_config, lm_params, write_gguf, tied
):
  config = lm_config(logits_via_embedding=tied)
  params = lm_params(config)
  found = files.load_gguf(write_gguf(config, params))
  assert found.config.logits_via_embedding == tied
  assert found.config.norm_epsilon == pytest.approx(config.norm_epsilon)
  assert_same(found.params, params)


def test_gguf_factors_of_rotary_positions(lm_config, lm_params, write_gguf):
  config = lm_config()
  factors = np.array([1, 2, 4, 8], np.float32)
  extra = {'rope_freqs.weight': ((4,), 0, factors.tobytes())}
  found = files.load_gguf(write_gguf(config, lm_params(config), extra))
  np.testing.assert_allclose(
    rope.inverse_frequencies(found.config),
    rope.inverse_frequencies(config) / factors,
  )


def test_what_old_files_hold_besides_is_left_out(
  lm_config, lm_params, write_folder
):
  config = lm_config(logits_via_embedding=True)
  params = lm_params(config)
  folder = write_folder(config, params)
  mapped = safetensors_files.read_file(folder / 'model.safetensors')
  tensors = {name: np.array(value) for name, value in mapped.items()}
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  for i in range(2):
    name = f'model.layers.{i}.self_attn.rotary_emb.inv_freq'
    tensors[name] = np.ones(4, np.float32)
  safetensors_files.write_file(folder / 'model.safetensors', tensors)
  assert_same(files.load_folder(folder).params, params)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model_type': 'gemma'}, "model_type is 'gemma', expected 'llama'"),
    ({'hidden_act': 'gelu'}, 'hidden_act'),
    ({'attention_bias': True}, 'attention_bias'),
    ({'intermediate_size': 48}, r'gate_proj.weight: found \(64, 32\)'),
    ({'num_hidden_layers': 1}, r'model.layers.1.*unknown'),
    ({'num_hidden_layers': 3}, r'model.layers.2.*missing'),
    ({'tie_word_embeddings': True, 'vocab_size': 300}, r'expected \(300, 32\)'),
    ({'rope_scaling': {'rope_type': 'yarn', 'factor': 4}}, 'yarn'),
    ({'rope_scaling': {'rope_type': 'llama3', 'factor': 4}}, 'low_freq_factor'),
  ],
)
def test_other_models_are_refused(
  lm_config, lm_params, write_folder, changes, message
):
  config = lm_config()
  folder = write_folder(config, lm_params(config), **changes)
  with pytest.raises(ConversionError, match=message):
    files.load_folder(folder)


@pytest.mark.parametrize(
  'file, message',
  [
    ('config.json', 'Cannot read'),
    ('model.safetensors', 'has no weights'),
    ('tokenizer.json', 'has no tokenizer.json'),
  ],
)
def test_a_missing_file_is_named(
  lm_config, lm_params, write_folder, file, message
):
  folder = write_folder(lm_config(), lm_params(lm_config()))
  (folder / file).unlink()
  with pytest.raises(ConversionError, match=message):
    files.load_folder(folder)


def test_no_end_of_text(lm_config, lm_params, write_folder):
  folder = write_folder(lm_config(), lm_params(lm_config()), eos_token_id=None)
  with pytest.raises(ConversionError, match='names no eos_token_id'):
    files.load_folder(folder)


def test_transformers_5_keeps_rope_under_one_key():
  values = {
    'model_type': 'llama',
    'vocab_size': 10,
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 8,
  }
  old = {'rope_theta': 5e5, 'rope_scaling': {'type': 'linear', 'factor': 2.0}}
  new = {
    'rope_parameters': {
      'rope_type': 'linear',
      'rope_theta': 5e5,
      'factor': 2.0,
    }
  }
  found = [
    descriptions.from_hugging_face(values | change, 'config.json')
    for change in (old, json.loads(json.dumps(new)))
  ]
  assert found[0] == found[1]
  assert found[0].rope_scaling.factor == 2.0 and found[0].rope_theta == 5e5
  assert found[0].num_kv_heads == 2 and found[0].head_dim == 8
