"""Hugging Face T5 folders: config.json, weights, spiece.model.

T5 1.1, LM-adapt and Flan-T5 (gated gelu, untied logits), mT5, and the first
T5 (relu, tied). Weights in safetensors, one file or several, or in torch's
.bin files.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np

from btr_jax.interop import architecture, atlas, safetensors_files
from btr_jax.interop.checkpoint import Checkpoint, ConversionError

CONFIG_FILE = 'config.json'
VOCABULARY_FILE = 'spiece.model'
TOKENIZER_FILE = 'tokenizer_config.json'
WEIGHTS = 'model.safetensors'
TORCH_WEIGHTS = 'pytorch_model.bin'
# In the order of preference; safetensors need no torch.
WEIGHT_FILES = (
  WEIGHTS,
  WEIGHTS + safetensors_files.INDEX_SUFFIX,
  TORCH_WEIGHTS,
  TORCH_WEIGHTS + safetensors_files.INDEX_SUFFIX,
)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object.

  Raises:
    ConversionError: unreadable, or no object.
  """
  try:
    values = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ConversionError(f'Cannot read {path}: {error}.') from error
  if not isinstance(values, dict):
    raise ConversionError(
      f'{path} holds {type(values).__name__}; expected a JSON object.'
    )
  return values


def read_weights(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, int], int | None, pathlib.Path]:
  """Tensors of a folder or of one file, by transformers' names.

  Args:
    path: a folder with one of `WEIGHT_FILES`, or a weight file.

  Returns:
    (tensors, number left out by reason, step if Atlas wrote it, the file).

  Raises:
    ConversionError: no weights there, or unreadable ones.
  """
  if path.is_dir():
    names = (*WEIGHT_FILES, atlas.FILE)
    present = [name for name in names if (path / name).is_file()]
    if not present:
      raise ConversionError(
        f'{path} has no weights; expected one of {", ".join(names)}.'
      )
    path = path / present[0]
  if path.name.endswith('.safetensors'):
    tensors = safetensors_files.read_file(path)
    return atlas.unwrap(tensors, str(path)), {}, None, path
  if path.name.endswith('.safetensors' + safetensors_files.INDEX_SUFFIX):
    tensors = safetensors_files.read_sharded(path)
    return atlas.unwrap(tensors, str(path)), {}, None, path
  if path.name.endswith(safetensors_files.INDEX_SUFFIX):
    weight_map = safetensors_files.shard_names(path)
    tensors = {}
    for shard in sorted(set(weight_map.values())):
      tensors.update(atlas.read(path.parent / shard)[0])
    renamed = {atlas.unwrapped(name): file for name, file in weight_map.items()}
    safetensors_files.check_index(path, renamed, tensors)
    return tensors, {}, None, path
  tensors, left_out, step = atlas.read(path)
  return tensors, left_out, step, path


def config_beside(weights: pathlib.Path) -> pathlib.Path | None:
  """config.json in the weights' folder, if there is one."""
  path = weights.parent / CONFIG_FILE
  return path if path.is_file() else None


def vocabulary_beside(weights: pathlib.Path) -> pathlib.Path | None:
  """spiece.model in the weights' folder, if there is one."""
  path = weights.parent / VOCABULARY_FILE
  return path if path.is_file() else None


def extra_ids_beside(weights: pathlib.Path) -> int:
  """Sentinels that tokenizer_config.json names; 100 without it."""
  path = weights.parent / TOKENIZER_FILE
  if not path.is_file():
    return 100
  number = read_json(path).get('extra_ids', 100)
  return number if isinstance(number, int) and number >= 0 else 100


def write(
  folder: pathlib.Path,
  checkpoint: Checkpoint,
  tensors: Mapping[str, np.ndarray],
  max_bytes: int,
) -> None:
  """Writes a folder that transformers' T5ForConditionalGeneration loads.

  Args:
    folder: an empty folder.
    checkpoint: gives architecture and vocabulary.
    tensors: the parameters by transformers' names.
    max_bytes: of tensors in one file.

  Raises:
    ConversionError: an architecture that transformers does not have.
  """
  dtypes = list(checkpoint.dtypes())
  values = architecture.to_hugging_face(
    checkpoint.config, dtypes[0] if len(dtypes) == 1 else 'float32'
  )
  _write_json(folder / CONFIG_FILE, values)
  if checkpoint.vocabulary is not None:
    data = checkpoint.vocabulary.read_bytes()
    (folder / VOCABULARY_FILE).write_bytes(data)
    _write_json(
      folder / TOKENIZER_FILE,
      {
        'tokenizer_class': 'T5Tokenizer',
        'extra_ids': checkpoint.extra_ids,
        'eos_token': '</s>',
        'pad_token': '<pad>',
        'unk_token': '<unk>',
      },
    )
  safetensors_files.write_folder(folder, tensors, max_bytes)


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=2, sort_keys=True) + '\n')
