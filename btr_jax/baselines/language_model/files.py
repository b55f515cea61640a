"""Models on disk: folders of transformers, and GGUF files."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import (
  descriptions,
  gguf_tokenizer,
  json_files,
  parameters,
)
from btr_jax.baselines.language_model import gguf as gguf_lib
from btr_jax.baselines.language_model import tokenizer as tokenizer_lib
from btr_jax.interop import safetensors_files
from btr_jax.interop.checkpoint import ConversionError

_WEIGHTS = 'model.safetensors'
_INDEX = _WEIGHTS + safetensors_files.INDEX_SUFFIX


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A language model in memory.

  Attributes:
    config: architecture.
    params: on the device.
    tokenizer: of its text.
    stored_bytes: of its weights on disk.
  """

  config: config_lib.LanguageModelConfig
  params: Any
  tokenizer: tokenizer_lib.Tokenizer
  stored_bytes: int


def load_folder(
  folder: str | os.PathLike, dtype: str = 'float32'
) -> LoadedModel:
  """Reads config.json, safetensors (one file or several), tokenizer.json.

  Args:
    folder: as transformers writes it.
    dtype: of activations and parameters, whatever is stored.

  Returns:
    The model.

  Raises:
    ConversionError: a file is missing or does not fit; says which.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise ConversionError(
      f'There is no folder {folder}; expected config.json, {_WEIGHTS} and '
      f'{tokenizer_lib.TOKENIZER_FILE} in it.'
    )
  path = folder / 'config.json'
  config = descriptions.from_hugging_face(
    json_files.read(path), str(path), dtype
  )
  tokenizer = tokenizer_lib.Tokenizer.from_folder(folder)
  if (folder / _WEIGHTS).is_file():
    tensors = safetensors_files.read_file(folder / _WEIGHTS)
  elif (folder / _INDEX).is_file():
    tensors = safetensors_files.read_sharded(folder / _INDEX)
  else:
    raise ConversionError(
      f'{folder} has no weights; expected {_WEIGHTS} or {_INDEX}.'
    )
  stored = {
    name: parameters.Stored(tuple(value.shape), lambda value=value: value)
    for name, value in tensors.items()
  }
  params = parameters.from_tensors(stored, config, str(folder))
  num_bytes = sum(value.nbytes for value in tensors.values())
  return LoadedModel(config, params, tokenizer, num_bytes)


def load_gguf(path: str | os.PathLike, dtype: str = 'float32') -> LoadedModel:
  """Reads a GGUF file, its weights dequantised.

  Args:
    path: of a model of the Llama family.
    dtype: of activations and parameters.

  Returns:
    The model.

  Raises:
    ConversionError: unreadable, of another architecture, or not whole.
  """
  file = gguf_lib.read(path)
  source = str(file.path)
  factors = file.tensors.get('rope_freqs.weight')
  config = descriptions.from_gguf(
    file.metadata,
    source,
    tied='output.weight' not in file.tensors,
    rope_factors=tuple(factors.read().tolist()) if factors else (),
    dtype=dtype,
  )
  tokenizer = gguf_tokenizer.from_metadata(file.metadata, source)
  stored = {
    name: parameters.Stored(tensor.shape, tensor.read)
    for name, tensor in file.tensors.items()
  }
  params = parameters.from_tensors(stored, config, source, is_gguf=True)
  num_bytes = sum(len(tensor.data) for tensor in file.tensors.values())
  return LoadedModel(config, params, tokenizer, num_bytes)
