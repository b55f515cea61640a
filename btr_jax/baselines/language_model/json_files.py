"""The small JSON files beside a model's weights."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from btr_jax.interop.checkpoint import ConversionError


def read(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object.

  Raises:
    ConversionError: unreadable, or no object.
  """
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ConversionError(f'Cannot read {path}: {error}.') from error
  if not isinstance(values, dict):
    raise ConversionError(
      f'{path} holds {type(values).__name__}; expected a JSON object.'
    )
  return values


def read_if_there(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object, or an empty one if there is no such file."""
  return read(path) if path.is_file() else {}
