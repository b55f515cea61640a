"""The configuration that a model's file describes: config.json or GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.interop.checkpoint import ConversionError, refuse

_ADVICE = (
  'Models of the Llama family are read (LLaMA 1 to 3, TinyLlama, SmolLM); '
  'their values stand above as "expected".'
)


def from_hugging_face(
  values: Mapping[str, Any], source: str, dtype: str = 'float32'
) -> config_lib.LanguageModelConfig:
  """The configuration in a config.json.

  Args:
    values: its contents, as transformers 4 or 5 writes them.
    source: the file, for the error.
    dtype: of activations and parameters.

  Returns:
    The configuration.

  Raises:
    ConversionError: another architecture, or a key is missing.
  """
  problems = [
    f'{key} is {values.get(key)!r}, expected {wanted!r}'
    for key, wanted, default in (
      ('model_type', 'llama', None),
      ('hidden_act', 'silu', 'silu'),
      ('attention_bias', False, False),
      ('mlp_bias', False, False),
      ('quantization_config', None, None),
    )
    if values.get(key, default) != wanted
  ]
  refuse(problems, source, _ADVICE)
  try:
    embed_dim = values['hidden_size']
    num_heads = values['num_attention_heads']
    # transformers 5 keeps all of RoPE under one key.
    rope = values.get('rope_parameters') or values.get('rope_scaling') or {}
    theta = rope.get('rope_theta', values.get('rope_theta', 10000.0))
    return config_lib.LanguageModelConfig(
      vocab_size=values['vocab_size'],
      embed_dim=embed_dim,
      num_layers=values['num_hidden_layers'],
      num_heads=num_heads,
      num_kv_heads=values.get('num_key_value_heads') or num_heads,
      head_dim=values.get('head_dim') or embed_dim // num_heads,
      mlp_dim=values['intermediate_size'],
      max_length=values.get('max_position_embeddings', 2048),
      norm_epsilon=values.get('rms_norm_eps', 1e-6),
      rope_theta=float(theta),
      rope_scaling=_rope_scaling(rope, source),
      logits_via_embedding=values.get('tie_word_embeddings', False),
      dtype=dtype,
    )
  except KeyError as error:
    raise ConversionError(f'{source} lacks the key {error}.') from error


def _rope_scaling(
  rope: Mapping[str, Any], source: str
) -> config_lib.RopeScaling | None:
  # `type` is what it was called before Llama 3.1.
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return None
  if kind == 'linear':
    return config_lib.RopeScaling('linear', float(rope['factor']))
  if kind == 'llama3':
    return config_lib.RopeScaling(
      'llama3',
      float(rope['factor']),
      float(rope['low_freq_factor']),
      float(rope['high_freq_factor']),
      int(rope['original_max_position_embeddings']),
    )
  raise ConversionError(
    f'{source} scales rotary positions by {kind!r}; expected default, linear '
    'or llama3.'
  )


def from_gguf(
  metadata: Mapping[str, Any],
  source: str,
  *,
  tied: bool,
  rope_factors: tuple[float, ...] = (),
  dtype: str = 'float32',
) -> config_lib.LanguageModelConfig:
  """The configuration in a GGUF file's metadata.

  Args:
    metadata: by key, such as 'llama.block_count'.
    source: the file, for the error.
    tied: the file has no matrix for the logits.
    rope_factors: its tensor `rope_freqs.weight`, if there is one.
    dtype: of activations and parameters.

  Returns:
    The configuration.

  Raises:
    ConversionError: another architecture, or a key is missing.
  """

  def of(key, default=None):
    return metadata.get(f'llama.{key}', default)

  problems = [
    f'{key} is {found!r}, expected {wanted!r}'
    for key, found, wanted in (
      ('general.architecture', metadata.get('general.architecture'), 'llama'),
      ('llama.expert_count', of('expert_count', 0), 0),
    )
    if found != wanted
  ]
  refuse(problems, source, _ADVICE)
  scaling = None
  kind = of('rope.scaling.type', 'none')
  if kind == 'linear':
    scaling = config_lib.RopeScaling('linear', of('rope.scaling.factor', 1.0))
  elif kind != 'none':
    raise ConversionError(
      f'{source} scales rotary positions by {kind!r}; expected none or linear, '
      'or factors in the tensor rope_freqs.weight.'
    )
  if rope_factors:
    scaling = config_lib.RopeScaling('factors', factors=rope_factors)
  try:
    embed_dim = metadata['llama.embedding_length']
    num_heads = metadata['llama.attention.head_count']
    head_dim = of('attention.key_length', embed_dim // num_heads)
    turned = of('rope.dimension_count', head_dim)
    if turned != head_dim:
      raise ConversionError(
        f'{source} turns {turned} of {head_dim} dimensions of a head; expected '
        'all of them.'
      )
    return config_lib.LanguageModelConfig(
      vocab_size=of('vocab_size', len(metadata['tokenizer.ggml.tokens'])),
      embed_dim=embed_dim,
      num_layers=metadata['llama.block_count'],
      num_heads=num_heads,
      num_kv_heads=of('attention.head_count_kv', num_heads),
      head_dim=head_dim,
      mlp_dim=metadata['llama.feed_forward_length'],
      max_length=metadata['llama.context_length'],
      norm_epsilon=metadata['llama.attention.layer_norm_rms_epsilon'],
      rope_theta=of('rope.freq_base', 10000.0),
      rope_scaling=scaling,
      logits_via_embedding=tied,
      dtype=dtype,
    )
  except KeyError as error:
    raise ConversionError(f'{source} lacks the key {error}.') from error
