"""What the parameters are called here, by Hugging Face and in GGUF."""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import TypeVar

from jaxtyping import Shaped
import numpy as np

from btr_jax.baselines.language_model import config as config_lib

# Ours -> (Hugging Face, GGUF); within a layer, and outside of layers.
_IN_LAYER = {
  'attention_norm/scale': ('input_layernorm', 'attn_norm'),
  'attention/query/kernel': ('self_attn.q_proj', 'attn_q'),
  'attention/key/kernel': ('self_attn.k_proj', 'attn_k'),
  'attention/value/kernel': ('self_attn.v_proj', 'attn_v'),
  'attention/out/kernel': ('self_attn.o_proj', 'attn_output'),
  'mlp_norm/scale': ('post_attention_layernorm', 'ffn_norm'),
  'mlp/gate/kernel': ('mlp.gate_proj', 'ffn_gate'),
  'mlp/up/kernel': ('mlp.up_proj', 'ffn_up'),
  'mlp/down/kernel': ('mlp.down_proj', 'ffn_down'),
}
_OUTSIDE = {
  'token_embedder/embedding': (
    'model.embed_tokens.weight',
    'token_embd.weight',
  ),
  'norm/scale': ('model.norm.weight', 'output_norm.weight'),
  'logits_dense/kernel': ('lm_head.weight', 'output.weight'),
}
Value = TypeVar('Value')

_LAYER = re.compile(r'layers_(\d+)/(.+)')
_ROPE_FACTORS = 'rope_freqs.weight'
# Kept by old files, computed by every program.
_BUFFER = re.compile(r'.*\.rotary_emb\.inv_freq')


def to_hugging_face(name: str) -> str:
  """The name of one of our parameters in a file of transformers."""
  match = _LAYER.fullmatch(name)
  if match is None:
    return _OUTSIDE[name][0]
  return f'model.layers.{match[1]}.{_IN_LAYER[match[2]][0]}.weight'


def to_gguf(name: str) -> str:
  """The name of one of our parameters in a GGUF file."""
  match = _LAYER.fullmatch(name)
  if match is None:
    return _OUTSIDE[name][1]
  return f'blk.{match[1]}.{_IN_LAYER[match[2]][1]}.weight'


def without_unused(
  tensors: Mapping[str, Value], config: config_lib.LanguageModelConfig
) -> dict[str, Value]:
  """Leaves out tensors that are no parameters of their own.

  Buffers of rotary positions, the factors that the configuration has taken
  up, and a tied model's second copy of its embedding.
  """
  tied = config.logits_via_embedding
  return {
    name: value
    for name, value in tensors.items()
    if not _BUFFER.fullmatch(name)
    and name != _ROPE_FACTORS
    and not (tied and name == _OUTSIDE['logits_dense/kernel'][0])
  }


def from_gguf_order(
  name: str,
  value: Shaped[np.ndarray, '...'],
  config: config_lib.LanguageModelConfig,
) -> Shaped[np.ndarray, '...']:
  """A GGUF tensor in Hugging Face's order of dimensions.

  llama.cpp turns neighbouring dimensions of a head together, Hugging Face
  dimension i and i + head_dim / 2; rows of queries and keys differ by that.

  Args:
    name: of the parameter, ours.
    value: [outputs, inputs].
    config: architecture.

  Returns:
    The value itself, or its rows in the other order.
  """
  if not name.endswith(('attention/query/kernel', 'attention/key/kernel')):
    return value
  half = config.head_dim // 2
  pairs = value.reshape(-1, half, 2, value.shape[-1])
  return pairs.swapaxes(1, 2).reshape(value.shape)
