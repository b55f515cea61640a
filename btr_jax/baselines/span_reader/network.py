"""The span reader as pure functions: one parameter tree, three modes.

  joint       [question ; passage] goes through all layers (DPR's reader)
  decomposed  layers 1 to k on question and passage apart (DeFormer)
  binary      as decomposed, and the passage's states become one bit per
              dimension (BTR-BERT)

The bits are the plain signs of layer k's states. BERT's layers end in a norm,
so that there is no scale to be kept beside them. What the bits stand for,
`center +- level` in each dimension, belongs to the parameters and costs no
byte of the cache; with center 0 and level 1 they stand for themselves.
"""

from __future__ import annotations

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt8
import numpy as np

from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.models import straight_through
from btr_jax.retrieval import bert

Params = bert.Params
PAD_ID = 0
_QUESTION, _PASSAGE = 0, 1  # BERT's segments
# Far below any score, and still finite when a few are added.
_NEVER = -1e9
_INITIAL_DEVIATION = 0.02  # BERT's


@struct.dataclass
class Scores:
  """What spans are chosen by; tokens that are no text have -1e9.

  Attributes:
    start: of a span that begins at the token, the passage's score included.
    end: of one whose last token it is.
  """

  start: Float32[Array, 'batch passages length']
  end: Float32[Array, 'batch passages length']


@struct.dataclass
class Trace:
  """What distillation compares.

  Attributes:
    passage_states: of every upper layer.
    question_attention: from the question to each passage token, averaged
      over the upper layers, heads and question tokens.
  """

  passage_states: tuple[Float32[Array, 'batch passages length embed'], ...]
  question_attention: Float32[Array, 'batch passages length']


def initial_params(
  encoder: Params, config: config_lib.SpanReaderConfig, seed: int = 0
) -> dict[str, Any]:
  """A reader on top of a trained encoder.

  Args:
    encoder: from `bert.from_tensors`.
    config: of the reader.
    seed: of the heads.

  Returns:
    {'bert', 'span', 'passage', 'codec'}, numpy, float32.
  """
  embed = config.bert.embed_dim
  generator = np.random.default_rng(seed)

  def dense(outputs: int, deviation: float) -> dict[str, np.ndarray]:
    weight = generator.standard_normal((embed, outputs)) * deviation
    return {
      'weight': weight.astype(np.float32),
      'bias': np.zeros(outputs, np.float32),
    }

  return {
    'bert': jax.tree.map(np.asarray, dict(encoder)),
    'span': dense(2, _INITIAL_DEVIATION),
    'passage': dense(1, _INITIAL_DEVIATION),
    'codec': {
      'center': np.zeros(embed, np.float32),
      'level': np.ones(embed, np.float32),
      'recovery': dense(embed, embed**-0.5),
    },
  }


def zero_encoder(config: config_lib.SpanReaderConfig) -> dict[str, Any]:
  """An encoder's parameters, all zero: for their shapes."""
  size = config.bert
  layer = {
    part: ((size.embed_dim, size.embed_dim), size.embed_dim)
    for part in ('query', 'key', 'value', 'out')
  }
  layer |= {
    'wi': ((size.embed_dim, size.mlp_dim), size.mlp_dim),
    'wo': ((size.mlp_dim, size.embed_dim), size.embed_dim),
    'attention_norm': ((size.embed_dim,), size.embed_dim),
    'mlp_norm': ((size.embed_dim,), size.embed_dim),
  }

  def zeros(*shape):
    return np.zeros(shape, np.float32)

  return {
    'words': zeros(size.vocab_size, size.embed_dim),
    'positions': zeros(size.num_positions, size.embed_dim),
    'types': zeros(2, size.embed_dim),
    'norm': {'weight': zeros(size.embed_dim), 'bias': zeros(size.embed_dim)},
    'layers': {
      part: {
        'weight': zeros(size.num_layers, *weight),
        'bias': zeros(size.num_layers, bias),
      }
      for part, (weight, bias) in layer.items()
    },
  }


def _lower(params: Params, config: config_lib.SpanReaderConfig) -> Params:
  layers = params['bert']['layers']
  return jax.tree.map(lambda leaf: leaf[: config.split_layer], layers)


def _dense(states, params):
  product = jnp.matmul(
    states, params['weight'], precision=jax.lax.Precision.HIGHEST
  )
  return product + _along_embed(params['bias'], product)


def _along_embed(vector, states):
  """A vector [embed] with the rank of states [..., embed]."""
  return jnp.expand_dims(vector, tuple(range(states.ndim - 1)))


def text_mask(
  tokens: Int32[Array, '*batch length'], separator_id: int
) -> Bool[Array, '*batch length']:
  """Where a passage's text is: behind the title, without the [SEP] about it."""
  separator = tokens == separator_id
  before = jnp.cumsum(separator, axis=-1)
  return (before == 1) & ~separator & (tokens != PAD_ID)


def encode_questions(
  params: Params,
  tokens: Int32[Array, 'batch length'],
  config: config_lib.SpanReaderConfig,
) -> Float32[Array, 'batch length embed']:
  """States of questions, by themselves, above layer k."""
  states = bert.input_states(
    params['bert'], tokens, config.bert, segment=_QUESTION
  )
  mask = tokens != PAD_ID
  return bert.apply_layers(states, mask, _lower(params, config), config.bert)


def encode_passages(
  params: Params,
  tokens: Int32[Array, 'batch length'],
  config: config_lib.SpanReaderConfig,
) -> Float32[Array, 'batch length embed']:
  """States of passages, by themselves, above layer k."""
  states = _passage_inputs(params, tokens, config)
  mask = tokens != PAD_ID
  return bert.apply_layers(states, mask, _lower(params, config), config.bert)


def _passage_inputs(params, tokens, config):
  return bert.input_states(
    params['bert'],
    tokens,
    config.bert,
    first_position=config.question_length,
    segment=_PASSAGE,
  )


def to_signs(
  params: Params, states: Float32[Array, '*tokens embed']
) -> Float32[Array, '*tokens embed']:
  """+-1 for each dimension; backward the derivative of tanh."""
  codec = params['codec']
  distance = states - _along_embed(codec['center'], states)
  return straight_through.sign(distance / _along_embed(codec['level'], states))


def from_signs(
  params: Params, signs: Float32[Array, '*tokens embed']
) -> Float32[Array, '*tokens embed']:
  """The states that the upper layers go on with."""
  codec = params['codec']
  scaled = signs * _along_embed(codec['level'], signs)
  return scaled + _along_embed(codec['center'], signs)


def pack(
  signs: Float32[Array, '*tokens embed'],
) -> UInt8[Array, '*tokens bits_bytes']:
  """Signs as the bytes of the cache."""
  return jnp.packbits(signs > 0, axis=-1)


def unpack(
  bits: UInt8[Array, '*tokens bits_bytes'],
) -> Float32[Array, '*tokens embed']:
  """The exact inverse of `pack`."""
  return jnp.unpackbits(bits, axis=-1).astype(jnp.float32) * 2.0 - 1.0


def recovery_error(
  params: Params,
  signs: Float32[Array, '*tokens embed'],
  states: Float32[Array, '*tokens embed'],
) -> Float32[Array, '*tokens']:
  """How badly a linear layer guesses the states from the signs (eq. 5)."""
  guessed = _dense(signs, params['codec']['recovery'])
  return jnp.mean(jnp.square(guessed - states), axis=-1)


def joint_states(
  params: Params,
  question_tokens: Int32[Array, 'batch question_length'],
  passage_tokens: Int32[Array, 'batch passages length'],
  config: config_lib.SpanReaderConfig,
) -> tuple[
  Float32[Array, 'batch passages question_length embed'],
  Float32[Array, 'batch passages length embed'],
]:
  """States above layer k of questions and passages that see one another."""
  count = passage_tokens.shape[1]
  flat = passage_tokens.reshape(-1, passage_tokens.shape[-1])
  question = bert.input_states(
    params['bert'], question_tokens, config.bert, segment=_QUESTION
  )
  passage = _passage_inputs(params, flat, config)
  states, mask = _joined(
    jnp.repeat(question, count, axis=0),
    jnp.repeat(question_tokens, count, axis=0),
    passage,
    flat,
  )
  states = bert.apply_layers(states, mask, _lower(params, config), config.bert)
  states = states.reshape(-1, count, *states.shape[1:])
  length = question_tokens.shape[1]
  return states[:, :, :length], states[:, :, length:]


def _joined(question, question_tokens, passage, passage_tokens):
  """[question ; passage] and its mask."""
  states = jnp.concatenate([question, passage], axis=1)
  tokens = jnp.concatenate([question_tokens, passage_tokens], axis=1)
  return states, tokens != PAD_ID


def read(
  params: Params,
  question_tokens: Int32[Array, 'batch question_length'],
  question_states: Float32[Array, 'batch passages question_length embed'],
  passage_tokens: Int32[Array, 'batch passages length'],
  passage_states: Float32[Array, 'batch passages length embed'],
  config: config_lib.SpanReaderConfig,
) -> tuple[Scores, Trace]:
  """The upper layers and the heads; every passage with the question alone.

  Args:
    params: parameters.
    question_tokens: [CLS] question [SEP], padded on the right.
    question_states: above layer k.
    passage_tokens: title [SEP] text [SEP], padded on the right.
    passage_states: above layer k; in mode binary `from_signs`.
    config: of the reader.

  Returns:
    (scores, trace).
  """
  batch, count, length = passage_tokens.shape
  asked = question_tokens.shape[1]

  def flat(values):
    return values.reshape(batch * count, *values.shape[2:])

  repeated = jnp.repeat(question_tokens, count, axis=0)
  states, mask = _joined(
    flat(question_states),
    repeated,
    flat(passage_states),
    flat(passage_tokens),
  )
  real = (repeated != PAD_ID).astype(jnp.float32)[:, None, :]
  kept, attention = [], 0.0
  layers = params['bert']['layers']
  for number in range(config.split_layer, config.bert.num_layers):
    layer = jax.tree.map(lambda leaf, at=number: leaf[at], layers)
    states, weights = bert.apply_layer(states, mask, layer, config.bert)
    kept.append(states[:, asked:].reshape(batch, count, length, -1))
    heads = weights[:, :, :asked, asked:].mean(axis=1)
    attention += (jnp.matmul(real, heads)[:, 0] / real.sum(-1)) / (
      config.bert.num_layers - config.split_layer
    )
  span = _dense(states[:, asked:], params['span'])
  passage = _dense(states[:, 0], params['passage'])  # at [CLS]
  span += passage[:, :, None]
  allowed = flat(text_mask(passage_tokens, config.separator_id))
  span = jnp.where(allowed[..., None], span, _NEVER)
  span = span.reshape(batch, count, length, 2)
  return (
    Scores(span[..., 0], span[..., 1]),
    Trace(tuple(kept), attention.reshape(batch, count, length)),
  )
