"""Files of torch.save: tensors in and out, and no pickle is ever executed.

torch is imported only here and only when such a file is at hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import os
import pathlib
import pickle
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from btr_jax.interop.checkpoint import ConversionError

# Before 2.6 a crafted file ran its own code through `weights_only` as well
# (CVE-2025-32434).
_SAFE_VERSION = (2, 6)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def import_torch() -> Any:
  """The torch package.

  Raises:
    ConversionError: it is not installed, or too old to be safe.
  """
  try:
    import torch
  except ImportError as error:
    raise ConversionError(
      'Files of torch (.pt, .bin, .pth.tar) need torch: '
      "pip install 'btr_jax[convert]'. Safetensors and T5X checkpoints do not."
    ) from error
  major, minor = str(torch.__version__).split('.')[:2]
  if (int(major), int(minor)) < _SAFE_VERSION:
    raise ConversionError(
      f'torch is {torch.__version__}; before 2.6 a crafted file could run its '
      "own code while its tensors were read. pip install 'torch>=2.6'."
    )
  return torch


def load(path: str | os.PathLike) -> Any:
  """What torch.save wrote, by torch's unpickler of tensors and plain values.

  Args:
    path: the file.

  Returns:
    Nested dicts and lists with torch tensors on the CPU, mapped into memory
    where the file allows.

  Raises:
    ConversionError: torch is missing, the file is not whole, or it holds
      objects that only a pickle could make.
  """
  torch = import_torch()
  # Atlas stores its options as argparse.Namespace, a bag of attributes whose
  # creation runs no code of the file's.
  allowed = torch.serialization.safe_globals([argparse.Namespace])
  try:
    with allowed:
      return torch.load(
        path,
        map_location='cpu',
        weights_only=True,
        mmap=zipfile.is_zipfile(path),
      )
  except pickle.UnpicklingError as error:
    lines = str(error).strip().splitlines() or ['no reason given']
    told = [line for line in lines if 'unsupported' in line.lower()]
    raise ConversionError(
      f'{path} holds more than tensors and plain values, or is damaged, and '
      f'was not loaded: {(told or lines)[0][:300]} A pickle can run any '
      'program. If you trust its origin, load it in torch elsewhere and '
      "torch.save its state dict (checkpoint['model']) alone."
    ) from error
  except (OSError, EOFError, RuntimeError, ValueError) as error:
    raise ConversionError(
      f'Cannot read {path}: {str(error).strip()[:300]}. Expected a file of '
      'torch.save; copy or download it again.'
    ) from error


def to_numpy(
  tensors: Mapping[Any, Any], source: str | os.PathLike
) -> dict[str, np.ndarray]:
  """Torch tensors as arrays, bit for bit.

  Args:
    tensors: a state dict.
    source: its file, for the error.

  Returns:
    Arrays that share the tensors' memory.

  Raises:
    ConversionError: a value is no dense tensor.
  """
  torch = import_torch()
  result = {}
  for name, value in tensors.items():
    if (
      not isinstance(name, str)
      or not isinstance(value, torch.Tensor)
      or value.layout != torch.strided
      or value.is_quantized
    ):
      raise ConversionError(
        f'{source}: {name!r} is no dense tensor but {type(value).__name__}; '
        'expected a state dict, names with tensors.'
      )
    value = value.detach()
    if value.dtype == torch.bfloat16:  # NumPy has none of its own.
      result[name] = value.contiguous().view(torch.int16).numpy()
      result[name] = result[name].view(_BFLOAT16)
    else:
      result[name] = value.numpy()
  return result


def to_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Arrays as torch tensors with memory of their own, bit for bit."""
  torch = import_torch()
  result = {}
  for name, value in tensors.items():
    value = np.array(value, order='C')
    if value.dtype == _BFLOAT16:
      result[name] = torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    else:
      result[name] = torch.from_numpy(value)
  return result


def save(path: pathlib.Path, value: Any) -> None:
  """torch.save, synced."""
  torch = import_torch()
  with open(path, 'wb') as file:
    torch.save(value, file)
    file.flush()
    os.fsync(file.fileno())
