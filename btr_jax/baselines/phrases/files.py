"""A trained phrase model as a folder.

phrases.json             sizes, the encoder's architecture, the filter
parameters.safetensors   float32, by names with '/'
tokenizer.json           of the package tokenizers
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
import jax
import numpy as np
import safetensors
import safetensors.numpy

from btr_jax.baselines.phrases.model import PhraseConfig
from btr_jax.data import records
from btr_jax.retrieval import bert
from btr_jax.retrieval.encoder import import_extra

FORMAT_VERSION = 1
SETTINGS_FILE = 'phrases.json'
PARAMETERS_FILE = 'parameters.safetensors'
TOKENIZER_FILE = 'tokenizer.json'


@dataclasses.dataclass(frozen=True)
class PhraseModel:
  """A phrase model, ready to be applied.

  Attributes:
    config: sizes.
    encoder: architecture of its two encoders.
    params: as `model.initial_params`.
    thresholds: of the filter's logits, for starts and ends.
    tokenizer: of the package tokenizers.
    fingerprint: changes with the vectors.
    provenance: how it was trained.
  """

  config: PhraseConfig
  encoder: bert.BertConfig
  params: Mapping[str, Any]
  thresholds: tuple[float, float]
  tokenizer: Any
  fingerprint: str
  provenance: Mapping[str, Any]


def save(
  folder: str | os.PathLike,
  config: PhraseConfig,
  encoder: bert.BertConfig,
  params: Mapping[str, Any],
  thresholds: tuple[float, float],
  tokenizer: Any,
  provenance: Mapping[str, Any],
) -> pathlib.Path:
  """Writes the folder; phrases.json last, so that it marks it whole.

  Args:
    folder: to make; a model that is there is replaced.
    config: sizes.
    encoder: architecture.
    params: as `model.initial_params`.
    thresholds: of the filter's logits, for starts and ends.
    tokenizer: of the package tokenizers.
    provenance: how it was trained, as JSON can write it.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / SETTINGS_FILE).unlink(missing_ok=True)
  flat = traverse_util.flatten_dict(dict(params), sep='/')
  tensors = {
    name: np.asarray(value, np.float32, order='C')
    for name, value in jax.device_get(flat).items()
  }
  with records.atomic_writer(folder / PARAMETERS_FILE, binary=True) as file:
    file.write(safetensors.numpy.save(tensors))
  with records.atomic_writer(folder / TOKENIZER_FILE) as file:
    file.write(tokenizer.to_str())
  records.write_json(
    folder / SETTINGS_FILE,
    {
      'format_version': FORMAT_VERSION,
      'config': config.to_dict(),
      'encoder': dataclasses.asdict(encoder),
      'thresholds': list(thresholds),
      'provenance': dict(provenance),
    },
  )
  return folder


def load(folder: str | os.PathLike) -> PhraseModel:
  """Reads what `save` wrote.

  Raises:
    ValueError: a file is missing, damaged, or of another version.
  """
  folder = pathlib.Path(folder)
  tokenizers = import_extra('tokenizers')
  try:
    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding='utf-8'))
    raw = (folder / PARAMETERS_FILE).read_bytes()
    tensors = safetensors.numpy.load(raw)
    text = (folder / TOKENIZER_FILE).read_text(encoding='utf-8')
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise ValueError(
      f'{folder} holds no phrase model: {error}. Train one by `btr phrases '
      'train`.'
    ) from error
  if settings.get('format_version') != FORMAT_VERSION:
    raise ValueError(
      f'{folder / SETTINGS_FILE} has format_version '
      f'{settings.get("format_version")!r}; expected {FORMAT_VERSION}. Train '
      'it again by `btr phrases train`.'
    )
  digest = hashlib.sha256(raw + text.encode())
  for name in ('config', 'encoder', 'thresholds'):
    digest.update(json.dumps(settings[name], sort_keys=True).encode())
  return PhraseModel(
    config=PhraseConfig(**settings['config']),
    encoder=bert.BertConfig(**settings['encoder']),
    params=traverse_util.unflatten_dict(tensors, sep='/'),
    thresholds=tuple(settings['thresholds']),
    tokenizer=tokenizers.Tokenizer.from_str(text),
    fingerprint=digest.hexdigest(),
    provenance=settings['provenance'],
  )
