"""Retrievers of Atlas and Contriever as folders that `SentenceEncoder` reads.

Atlas keeps its retriever beside the reader, under `retriever.contriever.`;
one whose question side was trained apart under `retriever.query_contriever.`
and `retriever.passage_contriever.`. Contriever's own folder holds a BertModel
in torch's file. Both take means over tokens and do not scale them.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np

from btr_jax.interop import huggingface, safetensors_files, torch_files
from btr_jax.interop.checkpoint import ConversionError, same_bits
from btr_jax.retrieval import bert, encoder

_SIDE = re.compile(
  r'^retriever\.(?:module\.)?(query_|passage_)?contriever\.(?:module\.)?(.+)$'
)
_LAYER = re.compile(r'^encoder\.layer\.(\d+)\.')
_TOKENIZER_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  encoder.VOCABULARY_FILE,
)
# Heads of BERT base and large, which shapes do not tell.
_HEADS = {768: 12, 1024: 16}

Tensors = dict[str, np.ndarray]


def read(path: pathlib.Path) -> dict[str, Tensors]:
  """The encoders of a checkpoint.

  Args:
    path: Atlas's model.pth.tar, or a folder or file with a BertModel.

  Returns:
    {'': tensors} of the one encoder, or {'query': ..., 'passage': ...}.

  Raises:
    ConversionError: unreadable, or without a retriever.
  """
  weights = _weights_file(path)
  if weights.name.endswith('.safetensors'):
    state: Mapping[str, Any] = safetensors_files.read_file(weights)
  else:
    loaded = torch_files.load(weights)
    state = loaded if isinstance(loaded, Mapping) else {}
    if isinstance(state.get('model'), Mapping):
      state = state['model']
  of_atlas = {str(n): v for n, v in state.items() if _SIDE.match(str(n))}
  if of_atlas:
    state = of_atlas
  elif not any('embeddings.word_embeddings' in str(name) for name in state):
    raise ConversionError(
      f'{weights} holds no retriever: no name starts with "retriever." (Atlas) '
      f"or is a BertModel's. Found {sorted(map(str, state))[:5]}."
    )
  if not weights.name.endswith('.safetensors'):
    state = torch_files.to_numpy(state, weights)
  return _by_side(state) if of_atlas else {'': dict(state)}


def _weights_file(path: pathlib.Path) -> pathlib.Path:
  if path.is_dir():
    names = ('model.pth.tar', huggingface.WEIGHTS, huggingface.TORCH_WEIGHTS)
    present = [name for name in names if (path / name).is_file()]
    if not present:
      raise ConversionError(
        f'{path} has no weights; expected one of {", ".join(names)}.'
      )
    return path / present[0]
  if not path.is_file():
    raise ConversionError(f'There is no {path}.')
  return path


def _by_side(state: Mapping[str, np.ndarray]) -> dict[str, Tensors]:
  sides: dict[str, Tensors] = {}
  for name, value in state.items():
    side, rest = _SIDE.match(name).groups()
    sides.setdefault((side or '').rstrip('_'), {})[rest] = value
  if set(sides) == set(encoder.SIDES):
    query, passage = (sides[side] for side in encoder.SIDES)
    if set(query) == set(passage) and all(
      same_bits(query[name], passage[name]) for name in query
    ):
      return {'': query}
  elif set(sides) != {''}:
    raise ConversionError(
      f'The retriever has the sides {sorted(sides)}; expected one encoder, or '
      'one of questions and one of passages.'
    )
  return sides


def describe(
  tensors: Tensors, values: Mapping[str, Any], source: str
) -> dict[str, Any]:
  """A config.json for an encoder, by the shapes of its tensors.

  Args:
    tensors: by BertModel's names.
    values: of a config.json at hand, for what shapes do not tell.
    source: where they come from, for the error.

  Raises:
    ConversionError: the tensors are no BERT encoder.
  """
  names = {name.removeprefix('bert.'): name for name in tensors}
  layers = [_LAYER.match(name) for name in names]
  try:
    vocab_size, embed_dim = tensors[
      names['embeddings.word_embeddings.weight']
    ].shape
    positions = tensors[names['embeddings.position_embeddings.weight']].shape[0]
    mlp = tensors[names['encoder.layer.0.intermediate.dense.weight']].shape[0]
  except (KeyError, ValueError) as error:
    raise ConversionError(
      f'{source} is no BERT encoder: {error} is missing or misshapen.'
    ) from error
  heads = values.get('num_attention_heads', _HEADS.get(int(embed_dim)))
  if heads is None:
    raise ConversionError(
      f'{source} has {embed_dim} dimensions; into how many heads they fall, '
      'its tensors do not tell. Give --config with its config.json.'
    )
  config = {
    'model_type': 'bert',
    'vocab_size': int(vocab_size),
    'hidden_size': int(embed_dim),
    'num_hidden_layers': 1 + max(int(layer[1]) for layer in layers if layer),
    'num_attention_heads': heads,
    'intermediate_size': int(mlp),
    'max_position_embeddings': int(positions),
    'layer_norm_eps': values.get('layer_norm_eps', 1e-12),
    'hidden_act': values.get('hidden_act', 'gelu'),
  }
  pooling = values.get('pooling', 'average')
  if pooling != 'average':
    raise ConversionError(
      f'{source}: config.json says pooling {pooling!r}; expected "average".'
    )
  return config


def write(
  folder: pathlib.Path,
  sides: Mapping[str, Tensors],
  config: Mapping[str, Any],
  tokenizer: pathlib.Path,
) -> None:
  """Writes what `encoder.load_pair` reads, in float32.

  Args:
    folder: to make.
    sides: from `read`.
    config: from `describe`.
    tokenizer: vocab.txt, or a folder with a tokenizer's files.

  Raises:
    ConversionError: no tokenizer there.
  """
  files = [tokenizer] if tokenizer.is_file() else []
  if tokenizer.is_dir():
    paths = [tokenizer / name for name in _TOKENIZER_FILES]
    files = [path for path in paths if path.is_file()]
  if not files:
    raise ConversionError(
      f'No tokenizer in {tokenizer}. Give --vocabulary with the vocab.txt that '
      "the encoder was trained with (BERT's uncased one for Contriever and "
      'Atlas; it has a line per token id).'
    )
  for side, tensors in sides.items():
    place = folder / side
    place.mkdir(parents=True)
    text = json.dumps(config, indent=2, sort_keys=True) + '\n'
    (place / encoder.CONFIG_FILE).write_text(text)
    for file in files:
      name = encoder.VOCABULARY_FILE if file == tokenizer else file.name
      shutil.copyfile(file, place / name)
    whole = {n: np.asarray(v, np.float32) for n, v in tensors.items()}
    # Names every tensor that is missing, unknown or misshapen.
    bert.from_tensors(whole, encoder.read_config(place), str(side or folder))
    safetensors_files.write_file(
      place / encoder.WEIGHTS_FILE, whole, {'format': 'pt'}
    )
