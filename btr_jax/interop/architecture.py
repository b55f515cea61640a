"""Architectures: from and to Hugging Face's config.json, or from shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from btr_jax import config as config_lib
from btr_jax.interop import names
from btr_jax.interop.checkpoint import ConversionError

# Hugging Face's feed_forward_proj -> ours. Its `gated-gelu` is the tanh
# approximation, as flax's gelu is; its plain `gelu` is not, so it is absent.
_FEED_FORWARD = {
  'gated-gelu': ('gelu', 'linear'),
  'gated-silu': ('silu', 'linear'),
  'gated-relu': ('relu', 'linear'),
  'relu': ('relu',),
}
_MODEL_TYPES = ('t5', 'mt5')
# Where BTR splits the published sizes; others at three quarters.
_SPLIT_LAYERS = {12: 9, 24: 20}
_REQUIRED = ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads')


def default_split_layer(num_encoder_layers: int) -> int:
  """k of the paper: 9 of 12 (base), 20 of 24 (large), else three quarters."""
  if num_encoder_layers in _SPLIT_LAYERS:
    return _SPLIT_LAYERS[num_encoder_layers]
  return max(1, min(num_encoder_layers - 1, round(0.75 * num_encoder_layers)))


def from_hugging_face(
  values: Mapping[str, Any],
  source: str,
  split_layer: int | None = None,
) -> config_lib.ReaderConfig:
  """The architecture that a config.json describes.

  Args:
    values: the file's contents.
    source: its name, for errors.
    split_layer: k of the paper; None takes `default_split_layer`.

  Returns:
    The configuration.

  Raises:
    ConversionError: no T5, a key is missing, or a T5 that the reader cannot
      compute.
  """
  model_type = values.get('model_type', 't5')
  if model_type not in _MODEL_TYPES:
    raise ConversionError(
      f'{source}: model_type is {model_type!r}; a reader can be '
      f'{" or ".join(_MODEL_TYPES)} (T5, LM-adapt, Flan-T5, Atlas).'
    )
  missing = [key for key in _REQUIRED if key not in values]
  if missing:
    raise ConversionError(f'{source} lacks {missing}; it is no T5 config.json.')
  # As transformers reads a file that does not say: the first T5 was tied, with
  # one relu matrix.
  activation = values.get('feed_forward_proj', 'relu')
  if activation not in _FEED_FORWARD:
    raise ConversionError(
      f'{source}: feed_forward_proj is {activation!r}; a reader computes '
      f'{", ".join(_FEED_FORWARD)}.'
    )
  fixed = {
    'layer_norm_epsilon': 1e-6,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
  }
  for key, expected in fixed.items():
    if values.get(key, expected) != expected:
      raise ConversionError(
        f'{source}: {key} is {values[key]!r}; a reader has {expected!r}, as '
        "all of T5's published checkpoints do."
      )
  num_layers = values['num_layers']
  num_decoder_layers = values.get('num_decoder_layers')
  return _config(
    source,
    split_layer,
    vocab_size=values['vocab_size'],
    embed_dim=values['d_model'],
    num_heads=values['num_heads'],
    head_dim=values['d_kv'],
    mlp_dim=values['d_ff'],
    num_encoder_layers=num_layers,
    num_decoder_layers=(
      num_layers if num_decoder_layers is None else num_decoder_layers
    ),
    mlp_activations=_FEED_FORWARD[activation],
    dropout_rate=float(values.get('dropout_rate', 0.1)),
    logits_via_embedding=_tied(values),
    relpos_buckets=values.get('relative_attention_num_buckets', 32),
    relpos_max_distance=values.get('relative_attention_max_distance', 128),
  )


def _tied(values: Mapping[str, Any]) -> bool:
  """Whether logits come from the embedding, divided by sqrt(embed_dim).

  transformers 5 writes tie_word_embeddings = true for every T5, and what the
  key used to mean under another name.
  """
  if isinstance(values.get('scale_decoder_outputs'), bool):
    return values['scale_decoder_outputs']
  return values.get('tie_word_embeddings', True) is not False


def _config(source, split_layer, **values) -> config_lib.ReaderConfig:
  num_layers = values['num_encoder_layers']
  if split_layer is None:
    split_layer = default_split_layer(num_layers)
  try:
    return config_lib.ReaderConfig(split_layer=split_layer, **values)
  except ValueError as error:
    raise ConversionError(f'{source}: {error}') from error


def to_hugging_face(
  config: config_lib.ReaderConfig, dtype: str
) -> dict[str, Any]:
  """The config.json of a reader; the inverse of `from_hugging_face`.

  Args:
    config: architecture; its codec and split layer have no place there.
    dtype: of the weights.

  Returns:
    The file's contents.

  Raises:
    ConversionError: activations that transformers' T5 does not know.
  """
  kinds = {ours: theirs for theirs, ours in _FEED_FORWARD.items()}
  if config.mlp_activations not in kinds:
    raise ConversionError(
      f"transformers' T5 has no feed-forward layer {config.mlp_activations}; "
      f'it has {", ".join(_FEED_FORWARD)}.'
    )
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'is_encoder_decoder': True,
    'vocab_size': config.vocab_size,
    'd_model': config.embed_dim,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'feed_forward_proj': kinds[config.mlp_activations],
    'dropout_rate': config.dropout_rate,
    'layer_norm_epsilon': 1e-6,
    'relative_attention_num_buckets': config.relpos_buckets,
    'relative_attention_max_distance': config.relpos_max_distance,
    'tie_word_embeddings': config.logits_via_embedding,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
    'torch_dtype': dtype,
  }


def from_shapes(
  shape_of: Callable[[str], tuple[int, ...] | None],
  source: str,
  split_layer: int | None = None,
  codec: config_lib.CodecConfig | None = None,
) -> config_lib.ReaderConfig:
  """The architecture that parameters must have, for files without one.

  What shapes do not tell is taken from T5: 1.1 (gated gelu) where the
  feed-forward layer has two input matrices, 1.0 (relu) where it has one;
  distances up to 128; logits tied to the embedding where they have no matrix.

  Args:
    shape_of: our name of a parameter -> its shape, None if it is not there.
    source: where they come from, for errors.
    split_layer: k of the paper; None takes `default_split_layer`.
    codec: token codec, if any is known.

  Returns:
    The configuration.

  Raises:
    ConversionError: a parameter that tells the architecture is missing.
  """

  def need(name: str, rank: int) -> tuple[int, ...]:
    shape = shape_of(name)
    if shape is None or len(shape) != rank:
      raise ConversionError(
        f'{source} has no {name} of {rank} axes (found {shape}), so it is no '
        'T5 encoder-decoder with the names of T5X (examples/t5) or of '
        "transformers. T5X's scanned layers (examples/scalable_t5) are not "
        'read: save the checkpoint from examples/t5.'
      )
    return shape

  def count(stack: str) -> int:
    number = 0
    while shape_of(f'{stack}/layers_{number}/pre_mlp_layer_norm/scale'):
      number += 1
    return number

  vocab_size, embed_dim = need(names.EMBEDDING, 2)
  num_heads, buckets = need('encoder/relpos_bias/rel_embedding', 2)
  joined = need('encoder/layers_0/attention/query/kernel', 2)[1]
  gated = shape_of('encoder/layers_0/mlp/wi_0/kernel') is not None
  wi = 'wi_0' if gated else 'wi'
  mlp_dim = need(f'encoder/layers_0/mlp/{wi}/kernel', 2)[1]
  if joined % num_heads:
    raise ConversionError(
      f'{source}: {joined} query columns do not divide by {num_heads} heads.'
    )
  return _config(
    source,
    split_layer,
    vocab_size=vocab_size,
    embed_dim=embed_dim,
    num_heads=num_heads,
    head_dim=joined // num_heads,
    mlp_dim=mlp_dim,
    num_encoder_layers=count('encoder'),
    num_decoder_layers=count('decoder'),
    mlp_activations=_FEED_FORWARD['gated-gelu' if gated else 'relu'],
    logits_via_embedding=shape_of(names.LOGITS) is None,
    relpos_buckets=buckets,
    **({} if codec is None else {'codec': codec}),
  )
