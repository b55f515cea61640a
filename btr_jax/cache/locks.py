"""The lock of a cache's writers: one for all shards, or one per share.

A writer's lock is a file that says who it is. In a folder the kernel holds it
(`flock`) and lets go when the process ends, however it ends, so that no lock
of a dead process stands in the way. An object store has nothing like that:
there a lock is an object, and one that a dead process of the same machine left
is taken over; one of another machine must be broken by hand.
"""

from __future__ import annotations

from collections.abc import Callable
import errno
import fcntl
import json
import os
import pathlib
import socket
import time

import tensorstore as ts

from btr_jax.cache import files
from btr_jax.cache.errors import CacheLockedError

_TRIES = 5
_SECONDS_BETWEEN_TRIES = 0.05


def lock_name(tag: str) -> str:
  """`writer.lock`, or `writer.3-of-8.lock` for the tag `.3-of-8`."""
  return files.LOCK_NAME.removesuffix(files.LOCK_SUFFIX) + (
    tag + files.LOCK_SUFFIX
  )


def is_lock(name: str) -> bool:
  """Whether a file of this name is a writer's lock."""
  return name.startswith('writer.') and name.endswith(files.LOCK_SUFFIX)


def _may_stand_together(one: str, other: str) -> bool:
  """Whether two locks are of different shares of the same division."""
  counts = {name.split('.')[1].partition('-of-')[2] for name in (one, other)}
  return one != other and len(counts) == 1 and counts != {''}


def _own_mark() -> bytes:
  mark = {'process': os.getpid(), 'host': socket.gethostname()}
  return json.dumps(mark).encode()


def _holder(mark: bytes) -> tuple[str, str]:
  """Process and host of a mark; 'unknown' where it does not tell."""
  try:
    values = json.loads(mark)
    return str(values['process']), str(values['host'])
  except (ValueError, KeyError, TypeError):
    return 'unknown', 'unknown'


def _refusal(where: object, name: str, mark: bytes, fix: str) -> Exception:
  process, host = _holder(mark)
  return CacheLockedError(
    f'Another build (process {process} on {host}, {name}) is writing to '
    f'{where}. {fix}'
  )


_WAIT = 'Wait for it to end, or stop it; the lock goes with the process.'


class FolderLock:
  """A writer's lock on a folder, by `flock`."""

  def __init__(self, folder: pathlib.Path, tag: str = ''):
    """Takes the lock.

    Args:
      folder: of the cache; exists.
      tag: of the share, '' for a writer of all shards.

    Raises:
      CacheLockedError: another writer has this lock, or one that does not
        stand together with it; names its process and host.
    """
    self._path = folder / lock_name(tag)
    self._descriptor: int | None = self._take()
    for file in folder.iterdir():
      if (
        file != self._path
        and is_lock(file.name)
        and not _may_stand_together(file.name, self._path.name)
      ):
        mark = self._mark_if_held(file)
        if mark is not None:
          self.release()
          raise _refusal(folder, file.name, mark, _WAIT)

  def _take(self) -> int:
    tries = 0
    while True:
      descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        mark = os.pread(descriptor, 512, 0)
        os.close(descriptor)
        # Another writer may only be looking whether it is held.
        tries += 1
        if tries < _TRIES:
          time.sleep(_SECONDS_BETWEEN_TRIES)
          continue
        raise _refusal(
          self._path.parent, self._path.name, mark, _WAIT
        ) from None
      except OSError as error:
        os.close(descriptor)
        raise OSError(
          error.errno,
          f'The file system of {self._path.parent} cannot lock files '
          f'({os.strerror(error.errno or errno.ENOLCK)}). Build on a local '
          'disk, or on one mounted with locks; export the cache from there.',
        ) from error
      # The holder removes the file when it ends: be sure that the name still
      # stands for the file that we locked.
      try:
        named = os.stat(self._path)
      except FileNotFoundError:
        named = None
      if named and named.st_ino == os.fstat(descriptor).st_ino:
        break
      os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _own_mark(), 0)
    return descriptor

  @staticmethod
  def _mark_if_held(file: pathlib.Path) -> bytes | None:
    """The mark of a lock that is held; one that is not is removed."""
    try:
      descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
      return None
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      file.unlink(missing_ok=True)
      return None
    except BlockingIOError:
      return os.pread(descriptor, 512, 0)
    finally:
      os.close(descriptor)

  def release(self) -> None:
    if self._descriptor is not None:
      self._path.unlink(missing_ok=True)
      os.close(self._descriptor)
      self._descriptor = None


def _is_alive(process: str) -> bool:
  try:
    os.kill(int(process), 0)
  except (ProcessLookupError, ValueError):
    return False
  except PermissionError:
    pass
  return True


class StoreLock:
  """A writer's lock in a store of objects: an object written if absent."""

  def __init__(
    self,
    store: ts.KvStore,
    tag: str = '',
    *,
    is_alive: Callable[[str], bool] = _is_alive,
  ):
    """Takes the lock; errors as FolderLock."""
    self._store, self._name = store, lock_name(tag)
    self._held = False
    url = store.url
    found = store.read(self._name).result()
    if found.state == 'value' and not self._is_stale(found.value, is_alive):
      raise _refusal(url, self._name, found.value, self._fix(self._name))
    # Only if nobody came in between, whether it was absent or stale.
    written = store.write(
      self._name, _own_mark(), if_equal=found.stamp.generation
    ).result()
    if not written.generation:
      mark = store.read(self._name).result().value
      raise _refusal(url, self._name, mark, self._fix(self._name))
    self._held = True
    for key in store.list().result():
      name = key.decode()
      if (
        is_lock(name)
        and name != self._name
        and not _may_stand_together(name, self._name)
      ):
        mark = store.read(name).result().value
        if not self._is_stale(mark, is_alive):
          self.release()
          raise _refusal(url, name, mark, self._fix(name))

  @staticmethod
  def _fix(name: str) -> str:
    return (
      'Wait for it to end. If that process is gone, its lock stayed: remove '
      f'the object {name}, then start again.'
    )

  @staticmethod
  def _is_stale(mark: bytes, is_alive: Callable[[str], bool]) -> bool:
    process, host = _holder(mark)
    return host == socket.gethostname() and not is_alive(process)

  def release(self) -> None:
    if self._held:
      self._store.write(self._name, None).result()
      self._held = False
