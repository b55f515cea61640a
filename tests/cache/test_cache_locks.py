"""One writer per shard: whoever comes second is refused and told why."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import tensorstore as ts

from btr_jax.cache import locks
from btr_jax.cache.errors import CacheLockedError
from btr_jax.cache.plan import Share

MEMORY = {'driver': 'memory'}


def test_shares_of_one_division_stand_together(tmp_path):
  first = locks.FolderLock(tmp_path, Share(0, 3).tag)
  second = locks.FolderLock(tmp_path, Share(1, 3).tag)
  assert {file.name for file in tmp_path.iterdir()} == {
    'writer.1-of-3.lock',
    'writer.2-of-3.lock',
  }
  with pytest.raises(CacheLockedError, match='writer.2-of-3.lock'):
    locks.FolderLock(tmp_path, Share(1, 3).tag)
  first.release()
  second.release()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'held, wanted', [('', '.1-of-2'), ('.1-of-2', ''), ('.1-of-2', '.2-of-3')]
)
def test_what_may_write_the_same_shard_is_refused(tmp_path, held, wanted):
  lock = locks.FolderLock(tmp_path, held)
  with pytest.raises(CacheLockedError) as caught:
    locks.FolderLock(tmp_path, wanted)
  message = str(caught.value)
  assert f'process {os.getpid()} on {socket.gethostname()}' in message
  assert [file.name for file in tmp_path.iterdir()] == [locks.lock_name(held)]
  lock.release()
  locks.FolderLock(tmp_path, wanted).release()


@pytest.mark.parametrize('tag', ['', '.1-of-2', '.2-of-2'])
def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path, tag):
  program = (
    'import os, pathlib, sys; from btr_jax.cache import locks\n'
    'lock = locks.FolderLock(pathlib.Path(sys.argv[1]), ".1-of-2")\n'
    'os._exit(0)'
  )
  subprocess.run([sys.executable, '-c', program, str(tmp_path)], check=True)
  assert (tmp_path / 'writer.1-of-2.lock').stat().st_size
  locks.FolderLock(tmp_path, tag).release()


@pytest.fixture
def store():
  return ts.KvStore.open(MEMORY, context=ts.Context()).result()


def test_an_object_store_has_one_writer(store):
  lock = locks.StoreLock(store)
  with pytest.raises(CacheLockedError, match=f'process {os.getpid()} on'):
    locks.StoreLock(store)
  with pytest.raises(CacheLockedError, match='remove the object writer.lock'):
    locks.StoreLock(store, '.1-of-2')
  lock.release()
  first = locks.StoreLock(store, '.1-of-2')
  second = locks.StoreLock(store, '.2-of-2')
  first.release()
  second.release()
  assert not store.list().result()


def test_a_stale_lock_of_this_machine_is_taken_over(store):
  process = subprocess.run(
    [sys.executable, '-c', 'import os;print(os.getpid())'],
    capture_output=True,
    text=True,
    check=True,
  )
  mark = {'process': int(process.stdout), 'host': socket.gethostname()}
  store.write('writer.lock', json.dumps(mark).encode()).result()
  locks.StoreLock(store).release()
  assert not store.list().result()


def test_the_lock_of_another_machine_is_not(store):
  mark = {'process': 1, 'host': 'elsewhere'}
  store.write('writer.lock', json.dumps(mark).encode()).result()
  with pytest.raises(CacheLockedError, match='process 1 on elsewhere'):
    locks.StoreLock(store)
  assert [key for key in store.list().result()] == [b'writer.lock']
