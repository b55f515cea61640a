"""LoRA's matrices on disk, in the format of the package peft.

A folder with adapter_config.json and adapter_model.safetensors, so that peft
and llama.cpp's converter read what is trained here, and the other way round.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import json_files, names
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.data import records
from btr_jax.interop import checkpoint, safetensors_files

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_PARTS = {'down': 'lora_A', 'up': 'lora_B'}
# Ours -> peft's, which are those of transformers.
_TARGETS = {
  target: names.to_hugging_face(f'layers_0/{place}/{target}/kernel').split('.')[
    -2
  ]
  for place, targets in (
    ('attention', ('query', 'key', 'value', 'out')),
    ('mlp', ('gate', 'up', 'down')),
  )
  for target in targets
}


def _theirs(name: str) -> str:
  place, _, part = name.rpartition('/')
  kernel = names.to_hugging_face(f'{place}/kernel')
  return _PREFIX + re.sub('weight$', f'{_PARTS[part]}.weight', kernel)


def save(
  folder: str | os.PathLike, updates: Any, lora: config_lib.LoraConfig
) -> None:
  """Writes a new folder.

  Args:
    folder: to make.
    updates: LoRA's matrices.
    lora: what they were trained with.

  Raises:
    FileExistsError: the folder is there already.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  flat = traverse_util.flatten_dict(updates, sep='/')
  safetensors_files.write_file(
    folder / WEIGHTS_FILE,
    {_theirs(name): np.asarray(value).T for name, value in flat.items()},
    {'format': 'pt'},
  )
  values = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': None,
    'bias': 'none',
    'r': lora.rank,
    'lora_alpha': lora.alpha,
    'lora_dropout': lora.dropout_rate,
    'target_modules': sorted(_TARGETS[target] for target in lora.targets),
  }
  records.write_json(folder / CONFIG_FILE, values)


def load(
  folder: str | os.PathLike, config: config_lib.LanguageModelConfig
) -> tuple[Any, config_lib.LoraConfig]:
  """Reads a folder.

  Args:
    folder: as `save` or peft writes it.
    config: architecture of the model that it is for.

  Returns:
    LoRA's matrices in float32, and what they were trained with.

  Raises:
    ConversionError: unreadable, another kind of adapter, or for another
      model.
  """
  folder = pathlib.Path(folder)
  path = folder / CONFIG_FILE
  values = json_files.read(path)
  known = {theirs: ours for ours, theirs in _TARGETS.items()}
  targets = values.get('target_modules')
  problems = [
    f'{key} is {values.get(key)!r}, expected {wanted!r}'
    for key, wanted, default in (
      ('peft_type', 'LORA', None),
      ('bias', 'none', 'none'),
      ('use_dora', False, False),
      ('use_rslora', False, False),
    )
    if values.get(key, default) != wanted
  ]
  if not isinstance(targets, list) or not set(targets) <= set(known):
    problems.append(
      f'target_modules is {targets!r}, expected some of {sorted(known)}'
    )
  checkpoint.refuse(problems, str(path), 'Plain LoRA of matrices is read.')
  lora = config_lib.LoraConfig(
    rank=values['r'],
    alpha=float(values['lora_alpha']),
    dropout_rate=float(values.get('lora_dropout', 0.0)),
    targets=tuple(
      name for name in config_lib.TARGETS if _TARGETS[name] in targets
    ),
  )
  found = safetensors_files.read_file(folder / WEIGHTS_FILE)
  wanted = lora_lib.shapes(config, lora)
  checkpoint.check_tensors(
    found,
    {_theirs(name): shape[::-1] for name, shape in wanted.items()},
    str(folder),
  )
  flat = {
    name: jnp.asarray(np.asarray(found[_theirs(name)], np.float32).T)
    for name in wanted
  }
  return traverse_util.unflatten_dict(flat, sep='/'), lora
