"""Atlas's checkpoints (model.pth.tar, .pt): the reader among what they hold.

Atlas (facebookresearch/atlas) saves {'model': state dict of the reader and
the retriever, 'opt': options, 'step', optimizers, schedulers}. The reader is
transformers' T5 under the prefix `reader.`; of DistributedDataParallel,
`reader.module.`. FiD, its forerunner, wraps the encoder and each of its
blocks, and both wrappers show in the names.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import os
import pathlib
import re
from typing import Any

import numpy as np

from btr_jax.interop import names, torch_files
from btr_jax.interop.checkpoint import ConversionError

FILE = 'model.pth.tar'
_READER = 'reader.'
_FID_BLOCK = re.compile(r'^(encoder\.block\.\d+)\.module\.')


def unwrapped(name: str) -> str:
  """A tensor's name in transformers' T5, whoever wrapped it."""
  name = name.removeprefix('module.')
  if name.startswith('encoder.encoder.'):
    name = name.removeprefix('encoder.')
  return _FID_BLOCK.sub(r'\1.', name)


def unwrap(
  state: Mapping[str, np.ndarray], source: str
) -> dict[str, np.ndarray]:
  """Renames all tensors with `unwrapped`.

  Raises:
    ConversionError: two tensors get the same name.
  """
  result = {unwrapped(name): value for name, value in state.items()}
  if len(result) != len(state):
    raise ConversionError(
      f'{source}: {len(state)} tensors have only {len(result)} names once the '
      'wrappers (encoder.encoder., .module.) are taken off; two models are '
      'mixed in this file.'
    )
  return result


def read(
  path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, int], int | None]:
  """The reader's tensors by transformers' names.

  Args:
    path: Atlas's checkpoint, or any file of torch.save with a T5 state dict.

  Returns:
    (tensors, number of tensors left out by reason, step; None where the file
    is not Atlas's).

  Raises:
    ConversionError: unreadable, or without a reader.
  """
  loaded = torch_files.load(path)
  if not isinstance(loaded, Mapping):
    raise ConversionError(
      f'{path} holds {type(loaded).__name__}; expected a state dict or '
      "Atlas's {'model': state dict, ...}."
    )
  step, left_out = None, {}
  state: Mapping[Any, Any] = loaded
  if isinstance(loaded.get('model'), Mapping):
    state = loaded['model']
    given = loaded.get('step', 0)
    step = given if isinstance(given, int) and given >= 0 else 0
  reader = {
    name.removeprefix(_READER): value
    for name, value in state.items()
    if isinstance(name, str) and name.startswith(_READER)
  }
  if reader:
    retriever = sum(str(n).startswith('retriever.') for n in state)
    if retriever:
      left_out['the retriever'] = retriever
    others = [
      name
      for name in state
      if not str(name).startswith((_READER, 'retriever.'))
    ]
    if others:
      raise ConversionError(
        f'{path}: beside reader and retriever it holds {others[:20]}, which '
        'Atlas does not write.'
      )
    state = reader
  elif any(str(name).startswith('retriever.') for name in state):
    raise ConversionError(
      f'{path} holds a retriever and no reader (no name starts with '
      f"'{_READER}'); give a checkpoint saved without --retrieve_only."
    )
  return unwrap(torch_files.to_numpy(state, path), str(path)), left_out, step


def write(
  path: pathlib.Path, tensors: Mapping[str, np.ndarray], step: int
) -> None:
  """Writes a checkpoint that Atlas loads with --use_file_passages.

  Args:
    path: file to make.
    tensors: the reader's, by transformers' names.
    step: updates done.
  """
  state = torch_files.to_torch(tensors)
  embedding = state[names.TORCH_EMBEDDING]
  # Atlas loads strictly, so every name of the shared embedding must be there.
  state['encoder.embed_tokens.weight'] = embedding
  state['decoder.embed_tokens.weight'] = embedding
  state.setdefault(names.TORCH_LOGITS, embedding)
  torch_files.save(
    path,
    {
      'step': step,
      'model': {f'{_READER}{name}': state[name] for name in sorted(state)},
      'optimizer': None,
      'retr_optimizer': None,
      'scheduler': None,
      'retr_scheduler': None,
      'opt': argparse.Namespace(query_side_retriever_training=False),
    },
  )
