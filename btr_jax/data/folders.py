"""Folders that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import tempfile


def _sync(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_tree(path: pathlib.Path) -> None:
  """Makes a file, or a folder with all in it, survive a crash."""
  if path.is_dir():
    for child in sorted(path.iterdir()):
      sync_tree(child)
  _sync(path)


def remove(path: pathlib.Path) -> None:
  """Removes a file or a folder; absent is no error."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` that takes its place when the body is done.

  Args:
    path: the destination; what is there stays until the new one is whole.

  Yields:
    Where to write, a name in a folder of its own, not there yet.
  """
  path = path.absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  # One folder for both, on the destination's own file system.
  aside = pathlib.Path(
    tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent)
  )
  new, old = aside / path.name, aside / f'{path.name}.replaced'
  try:
    yield new
    sync_tree(new)
    if os.path.lexists(path):
      os.rename(path, old)
    try:
      os.rename(new, path)
    except OSError:
      if os.path.lexists(old):
        os.rename(old, path)
      raise
    _sync(path.parent)
  finally:
    remove(aside)
