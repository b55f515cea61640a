"""The names and shapes of a reader's parameters, and what others call them.

Ours are T5X's (`examples/t5`, the published T5 1.1 checkpoints). Torch stores
matrices as [outputs, inputs] and the position bias as [buckets, heads], both
transposed against ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from btr_jax import config as config_lib
from btr_jax.interop.checkpoint import (
  ConversionError,
  check_tensors,
  same_bits,
)
from btr_jax.models import residual_codec, token_codec

Shape = tuple[int, ...]

EMBEDDING = 'token_embedder/embedding'
LOGITS = 'decoder/logits_dense/kernel'
TORCH_EMBEDDING = 'shared.weight'
TORCH_LOGITS = 'lm_head.weight'
# Torch's modules share one embedding, and files hold it once, twice or three
# times, under whichever of its names came first.
_TORCH_EMBEDDINGS = (
  TORCH_EMBEDDING,
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
)
# Left over in the first conversions to torch; transformers skips it as well.
_TORCH_UNUSED = (
  'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',
)
_TORCH_ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
_TORCH_LAYERS = {
  'encoder': {
    'pre_attention_layer_norm': '0.layer_norm',
    'attention': '0.SelfAttention',
    'pre_mlp_layer_norm': '1.layer_norm',
    'mlp': '1.DenseReluDense',
  },
  'decoder': {
    'pre_self_attention_layer_norm': '0.layer_norm',
    'self_attention': '0.SelfAttention',
    'pre_cross_attention_layer_norm': '1.layer_norm',
    'encoder_decoder_attention': '1.EncDecAttention',
    'pre_mlp_layer_norm': '2.layer_norm',
    'mlp': '2.DenseReluDense',
  },
}


def input_matrices(activations: tuple[str, ...]) -> tuple[str, ...]:
  """Names of the feed-forward layer's input matrices."""
  if len(activations) == 1:
    return ('wi',)
  return tuple(f'wi_{i}' for i in range(len(activations)))


def _codec_shapes(config: config_lib.ReaderConfig) -> dict[str, Shape]:
  embed = config.embed_dim
  if config.codec.kind == 'float':
    return {}
  if config.codec.kind == 'residual':
    directions = token_codec.kept_directions(config)
    tables = ['table']
    tables += map(
      residual_codec.neighbour_name,
      residual_codec.neighbour_offsets(config.codec.window),
    )
    return {
      'codec/deviation': (embed,),
      'codec/level': (directions,),
      'codec/rotation': (embed, directions),
    } | {f'codec/{table}': (config.vocab_size, embed) for table in tables}
  return {
    'codec/recovery/bias': (embed,),
    'codec/recovery/kernel': (embed,) * 2,
  }


def shapes(
  config: config_lib.ReaderConfig, with_codec: bool = False
) -> dict[str, Shape]:
  """Every parameter of a reader and its shape.

  Args:
    config: architecture and codec.
    with_codec: also those of the token codec.

  Returns:
    Shapes by name; what `BtrModel.get_initial_variables` makes, without
    tracing it.
  """
  embed, mlp = config.embed_dim, config.mlp_dim
  joined = config.num_heads * config.head_dim
  result: dict[str, Shape] = {EMBEDDING: (config.vocab_size, embed)}
  stacks = {
    'encoder': config.num_encoder_layers,
    'decoder': config.num_decoder_layers,
  }
  for stack, num_layers in stacks.items():
    result[f'{stack}/relpos_bias/rel_embedding'] = (
      config.num_heads,
      config.relpos_buckets,
    )
    result[f'{stack}/{stack}_norm/scale'] = (embed,)
    for i in range(num_layers):
      for part in _TORCH_LAYERS[stack]:
        prefix = f'{stack}/layers_{i}/{part}'
        if part.endswith('layer_norm'):
          result[f'{prefix}/scale'] = (embed,)
        elif part == 'mlp':
          for name in input_matrices(config.mlp_activations):
            result[f'{prefix}/{name}/kernel'] = (embed, mlp)
          result[f'{prefix}/wo/kernel'] = (mlp, embed)
        else:
          for name in ('query', 'key', 'value'):
            result[f'{prefix}/{name}/kernel'] = (embed, joined)
          result[f'{prefix}/out/kernel'] = (joined, embed)
  if not config.logits_via_embedding:
    result[LOGITS] = (embed, config.vocab_size)
  if with_codec:
    result.update(_codec_shapes(config))
  return result


def torch_name(name: str) -> tuple[str, bool]:
  """What torch's T5 calls a parameter.

  Args:
    name: ours; no parameter of a codec, which torch's T5 has no name for.

  Returns:
    (name in torch, whether it is stored transposed).
  """
  if name == EMBEDDING:
    return TORCH_EMBEDDING, False
  if name == LOGITS:
    return TORCH_LOGITS, True
  stack, part, *rest = name.split('/')
  if part == 'relpos_bias':
    bias = 'block.0.layer.0.SelfAttention.relative_attention_bias'
    return f'{stack}.{bias}.weight', True
  if part == f'{stack}_norm':
    return f'{stack}.final_layer_norm.weight', False
  layer, module = int(part.removeprefix('layers_')), rest[0]
  prefix = f'{stack}.block.{layer}.layer.{_TORCH_LAYERS[stack][module]}'
  if rest[-1] == 'scale':
    return f'{prefix}.weight', False
  return f'{prefix}.{_TORCH_ATTENTION.get(rest[1], rest[1])}.weight', True


def torch_shapes(
  tensors: Mapping[str, np.ndarray], source: str
) -> Callable[[str], Shape | None]:
  """A function from our name of a parameter to the shape we give it.

  Torch's state dicts hold the logits' matrix even where it is the embedding
  itself; then the function knows none.

  Args:
    tensors: by torch's names.
    source: where they come from, for the error.

  Returns:
    The function; None for what is not there.

  Raises:
    ConversionError: gated feed-forward layers (T5 1.1) whose logits equal the
      embedding: tied or not, the files do not tell.
  """
  copies = [name for name in _TORCH_EMBEDDINGS if name in tensors]
  tied = (
    bool(copies)
    and TORCH_LOGITS in tensors
    and same_bits(tensors[TORCH_LOGITS], tensors[copies[0]])
  )
  gated, _ = torch_name('encoder/layers_0/mlp/wi_0/kernel')
  if tied and gated in tensors:
    raise ConversionError(
      f'{source}: {TORCH_LOGITS} equals the embedding, which T5 1.1 keeps '
      'apart; whether its logits are scaled as tied ones are, weights do not '
      'tell. Give --config with a config.json that says tie_word_embeddings. '
      '(transformers 5 ties them on loading even where it should not; then '
      'these weights are spoilt.)'
    )

  def shape_of(name: str) -> Shape | None:
    theirs, transposed = torch_name(name)
    if name == EMBEDDING and copies:
      theirs = copies[0]
    if theirs not in tensors or (name == LOGITS and tied):
      return None
    shape = tuple(tensors[theirs].shape)
    return shape[::-1] if transposed else shape

  return shape_of


def with_logits(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Gives the embedding as matrix of the logits where there is none.

  For files of transformers 5 whose T5 1.1 learned with the two tied, and whose
  logits are not scaled: our reader keeps the matrix by itself.
  """
  result = dict(tensors)
  copies = [name for name in _TORCH_EMBEDDINGS if name in tensors]
  if copies:
    result.setdefault(TORCH_LOGITS, tensors[copies[0]])
  return result


def from_torch(
  tensors: Mapping[str, np.ndarray],
  config: config_lib.ReaderConfig,
  source: str,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """Torch's tensors under our names, as views.

  Args:
    tensors: by torch's names.
    config: architecture.
    source: where they come from, for the error.

  Returns:
    (parameters by our names, number of tensors left out by reason).

  Raises:
    ConversionError: missing, unknown or misshapen tensors; copies of the
      embedding that differ; logits of their own where they should be tied.
  """
  found = dict(tensors)
  left_out: dict[str, int] = {}

  def drop(name: str, reason: str) -> None:
    del found[name]
    left_out[reason] = left_out.get(reason, 0) + 1

  copies = [name for name in _TORCH_EMBEDDINGS if name in found]
  for name in copies[1:]:
    if not same_bits(found[copies[0]], found[name]):
      raise ConversionError(
        f'{source}: {copies[0]} and {name} differ, but encoder and decoder of '
        'a T5 share one embedding. This is another model.'
      )
    drop(name, 'copies of the embedding')
  if copies:
    found[TORCH_EMBEDDING] = found.pop(copies[0])
  for name in _TORCH_UNUSED:
    if name in found:
      drop(name, "a position bias of cross-attention, which T5 doesn't use")
  if config.logits_via_embedding and {TORCH_LOGITS, TORCH_EMBEDDING} <= set(
    found
  ):
    if not same_bits(found[TORCH_LOGITS], found[TORCH_EMBEDDING]):
      raise ConversionError(
        f'{source}: the configuration ties the logits to the embedding '
        f'(tie_word_embeddings), but {TORCH_LOGITS} differs from '
        f'{TORCH_EMBEDDING}. T5 1.1, LM-adapt and Flan-T5 are not tied: put '
        '"tie_word_embeddings": false into config.json.'
      )
    drop(TORCH_LOGITS, 'copies of the embedding')
  wanted = {}
  for name, shape in shapes(config).items():
    theirs, transposed = torch_name(name)
    wanted[theirs] = shape[::-1] if transposed else shape
  check_tensors(found, wanted, source)
  result = {}
  for name in shapes(config):
    theirs, transposed = torch_name(name)
    result[name] = found[theirs].T if transposed else found[theirs]
  return result, left_out


def to_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Our tensors under torch's names, as views; the inverse of `from_torch`."""
  result = {}
  for name, value in tensors.items():
    theirs, transposed = torch_name(name)
    result[theirs] = value.T if transposed else value
  return result
