"""Architectures from config.json and from shapes."""

import dataclasses

import pytest

from btr_jax import config as config_lib
from btr_jax.interop import architecture, names
from btr_jax.interop.checkpoint import ConversionError

# google/t5-base-lm-adapt's, but for keys that say nothing of the network.
BASE = {
  'model_type': 't5',
  'd_ff': 2048,
  'd_kv': 64,
  'd_model': 768,
  'decoder_start_token_id': 0,
  'dropout_rate': 0.1,
  'eos_token_id': 1,
  'feed_forward_proj': 'gated-gelu',
  'initializer_factor': 1.0,
  'layer_norm_epsilon': 1e-06,
  'num_decoder_layers': 12,
  'num_heads': 12,
  'num_layers': 12,
  'pad_token_id': 0,
  'relative_attention_num_buckets': 32,
  'tie_word_embeddings': False,
  'vocab_size': 32128,
}


def test_base():
  config = architecture.from_hugging_face(BASE, 'config.json')
  assert config == config_lib.ReaderConfig(
    vocab_size=32128,
    embed_dim=768,
    num_heads=12,
    head_dim=64,
    mlp_dim=2048,
    num_encoder_layers=12,
    num_decoder_layers=12,
    split_layer=9,
  )
  again = architecture.from_hugging_face(
    architecture.to_hugging_face(config, 'float32'), 'config.json'
  )
  assert again == config


def test_the_first_t5_is_read_as_it_is():
  """Its config.json says neither how it is activated nor that it is tied."""
  values = {
    key: value
    for key, value in BASE.items()
    if key not in ('feed_forward_proj', 'tie_word_embeddings')
  }
  config = architecture.from_hugging_face(values, 'config.json')
  assert config.mlp_activations == ('relu',)
  assert config.logits_via_embedding


@pytest.mark.parametrize(
  'layers, split', [(12, 9), (24, 20), (8, 6), (3, 2), (2, 1), (10, 8)]
)
def test_default_split(layers, split):
  assert architecture.default_split_layer(layers) == split


@pytest.mark.parametrize(
  'change, message',
  [
    ({'model_type': 'umt5'}, "model_type is 'umt5'; a reader can be t5 or mt5"),
    ({'feed_forward_proj': 'gelu'}, "feed_forward_proj is 'gelu'"),
    ({'layer_norm_epsilon': 1e-5}, 'layer_norm_epsilon is 1e-05; .*1e-06'),
    ({'decoder_start_token_id': 2}, 'decoder_start_token_id is 2'),
    ({'d_model': 12}, 'embed_dim is 12; expected a multiple of 8'),
  ],
)
def test_what_a_reader_cannot_compute_is_refused(change, message):
  with pytest.raises(ConversionError, match=message):
    architecture.from_hugging_face({**BASE, **change}, 'config.json')


def test_missing_keys_are_named():
  with pytest.raises(ConversionError, match=r"lacks \['d_kv', 'num_heads'\]"):
    architecture.from_hugging_face(
      {k: v for k, v in BASE.items() if k not in ('d_kv', 'num_heads')}, 'x'
    )


def test_a_split_that_does_not_fit_is_refused():
  with pytest.raises(ConversionError, match='split_layer is 12; expected 1 to'):
    architecture.from_hugging_face(BASE, 'config.json', 12)


@pytest.mark.parametrize('tied', [False, True])
def test_shapes_tell_the_architecture(tiny_config, tied):
  config = dataclasses.replace(
    tiny_config,
    dropout_rate=0.1,
    logits_via_embedding=tied,
    mlp_activations=('relu',) if tied else ('gelu', 'linear'),
  )
  shapes = names.shapes(config)
  assert architecture.from_shapes(shapes.get, 'file', 2) == config


def test_shapes_of_something_else_are_refused():
  with pytest.raises(ConversionError, match='no token_embedder/embedding'):
    architecture.from_shapes({}.get, 'file')


def test_activations_that_transformers_lacks(tiny_config):
  config = dataclasses.replace(tiny_config, mlp_activations=('swish', 'linear'))
  with pytest.raises(ConversionError, match='no feed-forward layer'):
    architecture.to_hugging_face(config, 'float32')
