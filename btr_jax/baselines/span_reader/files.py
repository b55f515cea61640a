"""Folders of span readers: configuration, weights, tokenizer.

span_reader.json    configuration, mode, how it was trained
model.safetensors   parameters by their place in the tree ('bert/words', ...)
tokenizer.json      of the package tokenizers
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import network
from btr_jax.baselines.span_reader import tokenizer as tokenizer_lib
from btr_jax.data import records
from btr_jax.retrieval import bert, encoder

FORMAT_VERSION = 1
READER_FILE = 'span_reader.json'
WEIGHTS_FILE = 'model.safetensors'
TOKENIZER_FILE = 'tokenizer.json'


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A span reader out of a folder.

  Attributes:
    config: architecture and limits.
    mode: joint, decomposed or binary: what it was trained as last.
    params: numpy, float32.
    tokenizer: its WordPiece.
    fingerprint: SHA-256 of weights and configuration, for caches.
    provenance: how it was trained, as the file says.
  """

  config: config_lib.SpanReaderConfig
  mode: str
  params: network.Params
  tokenizer: tokenizer_lib.SpanTokenizer
  fingerprint: str
  provenance: Mapping[str, Any]


def save(
  path: str | os.PathLike,
  config: config_lib.SpanReaderConfig,
  mode: str,
  params: network.Params,
  tokenizer: tokenizer_lib.SpanTokenizer,
  provenance: Mapping[str, Any] | None = None,
) -> None:
  """Writes a folder; span_reader.json last, so that half of one is none."""
  config_lib.check_mode(mode)
  folder = pathlib.Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / READER_FILE).unlink(missing_ok=True)
  flat = {
    name: np.ascontiguousarray(value, np.float32)
    for name, value in traverse_util.flatten_dict(params, sep='/').items()
  }
  with records.atomic_writer(folder / WEIGHTS_FILE, binary=True) as file:
    file.write(safetensors.numpy.save(flat))
  with records.atomic_writer(folder / TOKENIZER_FILE) as file:
    file.write(tokenizer.to_json())
  records.write_json(
    folder / READER_FILE,
    {
      'format_version': FORMAT_VERSION,
      'mode': mode,
      'config': config.to_dict(),
      'provenance': dict(provenance or {}),
    },
  )


def load(path: str | os.PathLike) -> Loaded:
  """Reads a folder that `save` wrote.

  Raises:
    ValueError: a file is missing, damaged or of another format; names it.
  """
  folder = pathlib.Path(path)
  file = folder / READER_FILE
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
    version = values['format_version']
    if version != FORMAT_VERSION:
      raise ValueError(f'format {version}, expected {FORMAT_VERSION}')
    config = config_lib.SpanReaderConfig.from_dict(values['config'])
    config_lib.check_mode(values['mode'])
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{file} is no span reader: {error}. Expected a folder that '
      '`btr span-reader train` wrote.'
    ) from error
  weights = folder / WEIGHTS_FILE
  try:
    flat = safetensors.numpy.load_file(weights)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f'Cannot read {weights}: {error}.') from error
  _check_shapes(flat, config, weights)
  return Loaded(
    config,
    values['mode'],
    traverse_util.unflatten_dict(flat, sep='/'),
    tokenizer_lib.SpanTokenizer(encoder.load_tokenizer(folder), config),
    _fingerprint(config, flat),
    values.get('provenance', {}),
  )


def _fingerprint(config, flat):
  digest = hashlib.sha256(repr(config).encode())
  for name in sorted(flat):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(flat[name]).data)
  return digest.hexdigest()


def _check_shapes(
  flat: Mapping[str, np.ndarray],
  config: config_lib.SpanReaderConfig,
  path: pathlib.Path,
) -> None:
  wanted = {
    name: value.shape
    for name, value in traverse_util.flatten_dict(
      network.initial_params(network.zero_encoder(config), config), sep='/'
    ).items()
  }
  found = {name: value.shape for name, value in flat.items()}
  if found != wanted:
    wrong = [
      f'{name}: found {found.get(name, "none")}, expected '
      f'{wanted.get(name, "none")}'
      for name in sorted(set(found) | set(wanted))
      if found.get(name) != wanted.get(name)
    ]
    raise ValueError(
      f'{path} does not fit {READER_FILE} ({len(wrong)} tensors): '
      + '; '.join(wrong[:10])
    )


def from_encoder(
  folder: str | os.PathLike | None,
  *,
  split_layer: int,
  seed: int = 0,
  **limits: int,
) -> Loaded:
  """An untrained reader on top of a sentence encoder's (or BERT's) folder.

  Args:
    folder: with config.json, model.safetensors and a tokenizer; None takes
      the default sentence encoder.
    split_layer: k.
    seed: of the heads.
    **limits: question_length, passage_length, answer_length.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it does not fit.
  """
  path = encoder.shipped_folder() if folder is None else pathlib.Path(folder)
  size = encoder.read_config(path)
  weights = path / encoder.WEIGHTS_FILE
  try:
    tensors = safetensors.numpy.load_file(weights)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f'Cannot read {weights}: {error}.') from error
  words = encoder.load_tokenizer(path)
  separator = words.token_to_id('[SEP]')
  if separator is None:
    raise ValueError(
      f'The tokenizer of {path} has no [SEP]; expected WordPiece as BERT '
      'has it.'
    )
  config = config_lib.SpanReaderConfig(size, split_layer, separator, **limits)
  params = network.initial_params(
    bert.from_tensors(tensors, size, str(weights)), config, seed
  )
  return Loaded(
    config,
    'joint',
    params,
    tokenizer_lib.SpanTokenizer(words, config),
    _fingerprint(config, traverse_util.flatten_dict(params, sep='/')),
    {'encoder': path.name if folder else encoder.PACKAGE},
  )
