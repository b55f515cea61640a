"""Files that are either whole or absent, and errors that say how to go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
import errno
import hashlib
import os
import pathlib
import re

from btr_jax.cache.errors import CacheMismatchError, CacheWriteError

LOCK_NAME = 'writer.lock'
LOCK_SUFFIX = '.lock'
TEMPORARY_SUFFIX = '.partial'
# TensorStore's own name for a file that it has not renamed yet.
TENSORSTORE_SUFFIX = '.__lock'

Buffer = bytes | memoryview


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the entries of a folder (a rename, a new file) survive a crash."""
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_atomic(
  path: pathlib.Path, content: bytes | Sequence[Buffer], tag: str = ''
) -> None:
  """Writes aside, syncs, renames: a reader sees the old file or the new.

  Args:
    path: the file; its folder exists.
    content: bytes, or several pieces one after the other.
    tag: part of the name aside, so that processes which may write the same
      file do not meet there.
  """
  aside = path.with_name(path.name + tag + TEMPORARY_SUFFIX)
  pieces = [content] if isinstance(content, bytes) else content
  try:
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
      for piece in pieces:
        left = memoryview(piece)
        while left:
          left = left[os.write(descriptor, left) :]
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
    os.replace(aside, path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def sha256_of(path: pathlib.Path) -> str:
  """The file's SHA-256 in hexadecimal, read in blocks."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def sha256_of_pieces(pieces: Iterable[Buffer]) -> str:
  """SHA-256 of the pieces, one after the other, in hexadecimal."""
  digest = hashlib.sha256()
  for piece in pieces:
    digest.update(piece)
  return digest.hexdigest()


def is_leftover(name: str, tag: str = '') -> bool:
  """Whether a file of this name is what a killed writer left unfinished.

  Args:
    name: of the file.
    tag: of `write_atomic`; '' stands for every writer.
  """
  if tag:
    return name.endswith(tag + TEMPORARY_SUFFIX)
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
