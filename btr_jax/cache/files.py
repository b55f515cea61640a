"""Files that are either whole or absent, and the lock of the one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import fcntl
import hashlib
import os
import pathlib
import re

from btr_jax.cache.errors import (
  CacheLockedError,
  CacheMismatchError,
  CacheWriteError,
)

LOCK_NAME = 'writer.lock'
TEMPORARY_SUFFIX = '.partial'
# TensorStore's own name for a file that it has not renamed yet.
TENSORSTORE_SUFFIX = '.__lock'


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the entries of a folder (a rename, a new file) survive a crash."""
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_atomic(path: pathlib.Path, content: bytes) -> None:
  """Writes aside, syncs, renames: a reader sees the old file or the new."""
  aside = path.with_name(path.name + TEMPORARY_SUFFIX)
  try:
    with open(aside, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def sha256_of(path: pathlib.Path) -> str:
  """The file's SHA-256 in hexadecimal, read in blocks."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def is_leftover(name: str) -> bool:
  """Whether a file of this name is what a killed writer left unfinished."""
  return name.endswith((TEMPORARY_SUFFIX, TENSORSTORE_SUFFIX))


@contextmanager
def explained_write(what: str) -> Iterator[None]:
  """Turns a failing write into an error that says how to go on.

  Raises:
    CacheWriteError: the body raised OSError, or ValueError (so TensorStore
      reports the system's errors); with the system's errno.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    if isinstance(error, CacheMismatchError | CacheWriteError):
      raise
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, 'errno', None)
    number = number or errno.EIO
    raise CacheWriteError(
      number,
      f'Writing {what} failed ({os.strerror(number)}): {error}. What was '
      'written before is kept: free space or mend the disk, then start the '
      'same build again.',
    ) from error


class WriterLock:
  """Held by the one process that writes to a cache.

  The kernel lets go of the lock when the process ends, however it ends, so
  that no stale lock has to be removed by hand.
  """

  def __init__(self, folder: pathlib.Path):
    """Takes the lock.

    Raises:
      CacheLockedError: another writer has it; names its process.
    """
    self._path = folder / LOCK_NAME
    while True:
      descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        holder = os.pread(descriptor, 64, 0).decode() or 'unknown'
        os.close(descriptor)
        raise CacheLockedError(
          f'Another build (process {holder}) is writing to {folder}. Wait for '
          'it to end, or stop it; the lock goes with the process.'
        ) from None
      # The holder removes the file when it ends: be sure that the name still
      # stands for the file that we locked.
      try:
        named = os.stat(self._path)
      except FileNotFoundError:
        named = None
      if named and named.st_ino == os.fstat(descriptor).st_ino:
        break
      os.close(descriptor)
    self._descriptor = descriptor
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)

  def release(self) -> None:
    if self._descriptor is not None:
      self._path.unlink(missing_ok=True)
      os.close(self._descriptor)
      self._descriptor = None
