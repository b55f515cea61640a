"""A tiny language model: configuration, weights, tokenizer, files."""

import json
import struct

import numpy as np
import pytest

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import names, parameters
from btr_jax.interop import safetensors_files

TOKENS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')


@pytest.fixture(scope='session')
def tokenizers():
  return pytest.importorskip('tokenizers')


@pytest.fixture(scope='session')
def lm_config():
  """lm_config(**changes): four heads of queries, two of keys."""

  def make(**changes):
    values = dict(
      vocab_size=330,
      embed_dim=32,
      num_layers=2,
      num_heads=4,
      num_kv_heads=2,
      head_dim=8,
      mlp_dim=64,
      max_length=512,
    )
    return config_lib.LanguageModelConfig(**{**values, **changes})

  return make


@pytest.fixture(scope='session')
def lm_params():
  """lm_params(config, seed) -> the tree, drawn by NumPy."""
  from flax import traverse_util
  import jax.numpy as jnp

  def make(config, seed=0):
    generator = np.random.default_rng(seed)
    flat = {}
    for name, shape in parameters.shapes(config).items():
      values = 0.25 * generator.standard_normal(shape)
      if name.endswith('/scale'):
        values = 1 + 0.3 * np.tanh(values)
      flat[name] = jnp.asarray(values, config.dtype)
    return traverse_util.unflatten_dict(flat, sep='/')

  return make


@pytest.fixture(scope='session')
def byte_level(tokenizers, tiny_passages):
  """A byte-level BPE as SmolLM's, trained on the tiny corpus."""
  inner = tokenizers.Tokenizer(tokenizers.models.BPE())
  splits = tokenizers.pre_tokenizers
  inner.pre_tokenizer = splits.Sequence(
    [
      splits.Digits(individual_digits=True),
      splits.ByteLevel(add_prefix_space=False),
    ]
  )
  inner.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=list(TOKENS),
    initial_alphabet=splits.ByteLevel.alphabet(),
    show_progress=False,
  )
  inner.train_from_iterator([p.text for p in tiny_passages], trainer)
  return inner


@pytest.fixture(scope='session')
def hugging_face_tensors():
  """Our parameters under transformers' names, matrices [outputs, inputs]."""
  from flax import traverse_util

  def convert(params):
    result = {}
    for name, value in traverse_util.flatten_dict(params, sep='/').items():
      value = np.asarray(value)
      kernel = name.endswith('/kernel')
      result[names.to_hugging_face(name)] = value.T if kernel else value
    return result

  return convert


@pytest.fixture
def write_folder(tmp_path, byte_level, hugging_face_tensors):
  """write_folder(config, params, max_bytes, **config.json) -> folder."""

  def write(config, params, max_bytes=1 << 30, **changes):
    folder = tmp_path / 'model'
    folder.mkdir()
    tensors = hugging_face_tensors(params)
    safetensors_files.write_folder(folder, tensors, max_bytes)
    values = {
      'model_type': 'llama',
      'vocab_size': config.vocab_size,
      'hidden_size': config.embed_dim,
      'num_hidden_layers': config.num_layers,
      'num_attention_heads': config.num_heads,
      'num_key_value_heads': config.num_kv_heads,
      'head_dim': config.head_dim,
      'intermediate_size': config.mlp_dim,
      'max_position_embeddings': config.max_length,
      'rms_norm_eps': config.norm_epsilon,
      'rope_theta': config.rope_theta,
      'tie_word_embeddings': config.logits_via_embedding,
      'eos_token_id': [0, 2],
      **changes,
    }
    (folder / 'config.json').write_text(json.dumps(values))
    byte_level.save(str(folder / 'tokenizer.json'))
    return folder

  return write


@pytest.fixture(scope='session')
def gguf_bytes():
  """gguf_bytes(metadata, {name: (shape, type number, bytes)}) -> a file."""
  kinds = {bool: (7, '<?'), int: (4, '<I'), float: (6, '<f')}

  def text(value):
    data = value.encode()
    return struct.pack('<Q', len(data)) + data

  def typed(value):
    if isinstance(value, str):
      return 8, text(value)
    if isinstance(value, list):
      kind = typed(value[0])[0]
      head = struct.pack('<IQ', kind, len(value))
      return 9, head + b''.join(typed(item)[1] for item in value)
    kind, code = kinds[type(value)]
    return kind, struct.pack(code, value)

  def make(metadata, tensors, version=3):
    data = b'GGUF' + struct.pack('<IQQ', version, len(tensors), len(metadata))
    for key, value in metadata.items():
      kind, body = typed(value)
      data += text(key) + struct.pack('<I', kind) + body
    bodies = b''
    for name, (shape, kind, body) in tensors.items():
      data += text(name) + struct.pack('<I', len(shape))
      data += struct.pack(f'<{len(shape)}Q', *reversed(shape))
      data += struct.pack('<IQ', kind, len(bodies))
      bodies += body + bytes(-len(body) % 32)
    return data + bytes(-len(data) % 32) + bodies

  return make


@pytest.fixture(scope='session')
def gguf_tokenizer_metadata(byte_level):
  """The byte-level BPE as llama.cpp writes it."""
  model = json.loads(byte_level.to_str())['model']
  tokens = sorted(model['vocab'], key=model['vocab'].get)
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': [3 if t in TOKENS else 1 for t in tokens],
    'tokenizer.ggml.merges': [' '.join(pair) for pair in model['merges']],
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.add_bos_token': False,
  }


@pytest.fixture
def write_gguf(
  tmp_path, gguf_bytes, gguf_tokenizer_metadata, hugging_face_tensors
):
  """write_gguf(config, params, extra) -> path, rows as llama.cpp has them."""

  def write(config, params, extra=None):
    metadata = {
      'general.architecture': 'llama',
      'llama.vocab_size': config.vocab_size,
      'llama.block_count': config.num_layers,
      'llama.context_length': config.max_length,
      'llama.embedding_length': config.embed_dim,
      'llama.feed_forward_length': config.mlp_dim,
      'llama.attention.head_count': config.num_heads,
      'llama.attention.head_count_kv': config.num_kv_heads,
      'llama.attention.layer_norm_rms_epsilon': config.norm_epsilon,
      'llama.rope.freq_base': config.rope_theta,
      'llama.rope.dimension_count': config.head_dim,
      **gguf_tokenizer_metadata,
    }
    theirs = {
      names.to_hugging_face(name): names.to_gguf(name)
      for name in parameters.shapes(config)
    }
    tensors = dict(extra or {})
    for name, value in hugging_face_tensors(params).items():
      if name.endswith(('q_proj.weight', 'k_proj.weight')):
        # Halves of a head side by side: 0, d/2, 1, d/2 + 1, ...
        rows = value.reshape(-1, 2, config.head_dim // 2, value.shape[-1])
        value = rows.transpose(0, 2, 1, 3).reshape(value.shape)
      body = np.ascontiguousarray(value, np.float32).tobytes()
      tensors[theirs[name]] = (value.shape, 0, body)
    path = tmp_path / 'model.gguf'
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path

  return write
