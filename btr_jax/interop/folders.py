"""Which destinations a conversion may replace."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib

from btr_jax.interop.checkpoint import ConversionError


def check_destination(
  path: pathlib.Path,
  source: pathlib.Path,
  force: bool,
  may_replace: Callable[[pathlib.Path], bool],
) -> None:
  """Refuses a destination before any work is done.

  Args:
    path: the destination.
    source: what is read.
    force: replace what is there.
    may_replace: whether the thing there is a checkpoint; nothing else is ever
      removed.

  Raises:
    ConversionError: it exists and may not be replaced, or holds the source.
  """
  if source.resolve().is_relative_to(path.resolve()):
    raise ConversionError(
      f'The destination {path} is, or holds, the source {source}; choose '
      'another destination.'
    )
  if not os.path.lexists(path):
    return
  if not force:
    raise ConversionError(
      f'{path} exists; choose another destination, or --force to replace it.'
    )
  if not may_replace(path):
    raise ConversionError(
      f'{path} exists and is no checkpoint, so --force does not remove it; '
      'choose another destination.'
    )
