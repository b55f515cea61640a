"""Where a cache's files lie: a folder, or a store that TensorStore reaches.

Both know files by names relative to the cache ('bits/c.3.0') and write them
whole or not at all: a folder by renaming, an object store by its nature. A
place is all that writing, checking and copying a cache needs.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import shutil
from typing import Protocol, runtime_checkable

import tensorstore as ts

from btr_jax.cache import files, locks

# One for all, so that `memory://` names the same store wherever it is opened.
_CONTEXT = ts.Context()


@runtime_checkable
class Lock(Protocol):
  """Held by a writer."""

  def release(self) -> None:
    """Gives it up; nothing the second time."""


@runtime_checkable
class Place(Protocol):
  """The files of one cache. `str()` gives what the user called it."""

  def read(self, name: str) -> bytes:
    """The file's content; FileNotFoundError where there is none."""

  def size(self, name: str) -> int | None:
    """The file's size in bytes, None where there is none."""

  def measure(self, name: str) -> tuple[int, str]:
    """The file's size and SHA-256; FileNotFoundError where there is none."""

  def names(self, folder: str = '') -> list[str]:
    """All files, or those of one folder of the cache, sorted."""

  def write(
    self, name: str, content: bytes | Sequence[files.Buffer], tag: str = ''
  ) -> None:
    """Writes a file, whole or not at all, and for good."""

  def remove(self, name: str) -> None:
    """Removes a file for good; nothing where there is none."""

  def remove_folder(self, name: str) -> None:
    """Removes a folder of the cache with all that is in it."""

  def lock(self, tag: str = '') -> Lock:
    """Takes the lock of a writer; CacheLockedError where another has it."""

  def free_bytes(self) -> int | None:
    """Room that is left; None where there is no such limit."""


class FolderPlace:
  """A folder of a file system."""

  def __init__(self, folder: str | pathlib.Path):
    self.folder = pathlib.Path(folder)

  def __str__(self) -> str:
    return str(self.folder)

  def read(self, name: str) -> bytes:
    try:
      return (self.folder / name).read_bytes()
    except NotADirectoryError as error:
      raise FileNotFoundError(str(error)) from error

  def size(self, name: str) -> int | None:
    try:
      return (self.folder / name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
      return None

  def measure(self, name: str) -> tuple[int, str]:
    path = self.folder / name
    return path.stat().st_size, files.sha256_of(path)

  def names(self, folder: str = '') -> list[str]:
    # Not rglob: it fails when another process removes what it has listed.
    found = []
    for parent, _, names in os.walk(self.folder / folder):
      prefix = pathlib.Path(parent).relative_to(self.folder)
      found += [(prefix / name).as_posix() for name in names]
    return sorted(found)

  def write(
    self, name: str, content: bytes | Sequence[files.Buffer], tag: str = ''
  ) -> None:
    path = self.folder / name
    if not path.parent.is_dir():
      path.parent.mkdir(parents=True, exist_ok=True)
      files.sync_folder(path.parent.parent)
    files.write_atomic(path, content, tag)

  def remove(self, name: str) -> None:
    path = self.folder / name
    try:
      path.unlink()
    except FileNotFoundError:
      return
    files.sync_folder(path.parent)

  def remove_folder(self, name: str) -> None:
    shutil.rmtree(self.folder / name, ignore_errors=True)
    files.sync_folder(self.folder)

  def lock(self, tag: str = '') -> Lock:
    self.folder.mkdir(parents=True, exist_ok=True)
    return locks.FolderLock(self.folder, tag)

  def free_bytes(self) -> int | None:
    folder = self.folder.absolute()
    while not folder.exists():
      folder = folder.parent
    return shutil.disk_usage(folder).free


class StorePlace:
  """A kvstore of TensorStore: gs://, s3://, memory://, file://, ..."""

  def __init__(self, url: str):
    self._url = url
    self._store = ts.KvStore.open(
      url.rstrip('/') + '/', context=_CONTEXT
    ).result()

  def __str__(self) -> str:
    return self._url

  def read(self, name: str) -> bytes:
    found = self._store.read(name).result()
    if found.state != 'value':
      raise FileNotFoundError(f'{self._url} has no {name}')
    return found.value

  def size(self, name: str) -> int | None:
    # TensorStore tells no sizes without a read.
    found = self._store.read(name).result()
    return len(found.value) if found.state == 'value' else None

  def measure(self, name: str) -> tuple[int, str]:
    content = self.read(name)
    return len(content), files.sha256_of_pieces([content])

  def names(self, folder: str = '') -> list[str]:
    keys = [key.decode() for key in self._store.list().result()]
    return sorted(key for key in keys if not folder or _is_in(key, folder))

  def write(
    self, name: str, content: bytes | Sequence[files.Buffer], tag: str = ''
  ) -> None:
    del tag  # an object is written in one go
    whole = content if isinstance(content, bytes) else b''.join(content)
    self._store.write(name, whole).result()

  def remove(self, name: str) -> None:
    self._store.write(name, None).result()

  def remove_folder(self, name: str) -> None:
    for key in self.names(name):
      self.remove(key)

  def lock(self, tag: str = '') -> Lock:
    return locks.StoreLock(self._store, tag)

  def free_bytes(self) -> int | None:
    return None


def _is_in(name: str, folder: str) -> bool:
  return name.startswith(f'{folder}/')


def is_url(path: object) -> bool:
  """Whether a path names a kvstore rather than a folder."""
  return isinstance(path, str) and '://' in path


def open_place(path: str | pathlib.Path | Place) -> Place:
  """The place that a folder, a URL or a place stands for.

  Raises:
    ValueError: TensorStore does not know such a URL.
  """
  if is_url(path):
    return StorePlace(path)
  if isinstance(path, str | pathlib.Path):
    return FolderPlace(path)
  return path
