"""Killed, refused or out of space at any point, a build resumes to the same."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from btr_jax.cache import builder, files
from btr_jax.cache import writer as writers
from btr_jax.cache.errors import (
  CacheLockedError,
  CacheMismatchError,
  CacheWriteError,
)
from btr_jax.cache.verify import verify

# Builds the corpus of conftest.py in a process of its own. argv: this folder,
# cache, seconds per batch, limit on the size of a file (0: none), whether to
# begin without a look at the free space.
CHILD = """
import resource, signal, sys, time
folder, cache, seconds, limit, blind = sys.argv[1:]
sys.path.insert(0, folder)
import conftest
corpus = conftest.make_corpus()
def encode(tokens):
  time.sleep(float(seconds))
  return corpus.encode(tokens)
if int(limit):
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
if int(blind):
  from btr_jax.cache.plan import CachePlan
  CachePlan.check_free_space = lambda *arguments: None
import pathlib
print('begins', flush=True)
try:
  corpus.build(pathlib.Path(cache), encode_fn=encode)
except Exception as error:
  sys.exit(f'{type(error).__name__} {getattr(error, "errno", None)}: {error}')
print('done', flush=True)
"""


def child(cache, *, seconds=0.0, limit=0, blind=False, before=()):
  folder = pathlib.Path(__file__).parent
  return subprocess.Popen(
    [
      *before,
      sys.executable,
      '-c',
      CHILD,
      str(folder),
      str(cache),
      str(seconds),
      str(limit),
      str(int(blind)),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


class Killed(BaseException):
  """Stands for the end of the process: nothing catches it."""


def die_at(monkeypatch, call, *, after):
  """Ends the build at the call-th atomic write, before or after it."""
  calls = []
  write = files.write_atomic

  def dying(path, content, tag=''):
    calls.append(path)
    if len(calls) != call:
      return write(path, content, tag)
    if after:
      write(path, content, tag)
    raise Killed

  monkeypatch.setattr(files, 'write_atomic', dying)


# Manifest, group, one ledger entry per shard, manifest: seven writes.
@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize('call', range(1, 8))
def test_dying_around_any_write_resumes_to_the_same_bytes(
  tmp_path, corpus, sound_cache, tree, monkeypatch, call, after
):
  path = tmp_path / 'cache'
  with monkeypatch.context() as patch:
    die_at(patch, call, after=after)
    with pytest.raises(Killed):
      corpus.build(path)
  if not (call == 7 and after):
    assert tree(path) != tree(sound_cache)
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def test_leftovers_of_a_killed_write_are_cleared(
  tmp_path, corpus, sound_cache, tree, monkeypatch
):
  path = tmp_path / 'cache'
  with monkeypatch.context() as patch:
    die_at(patch, 4, after=False)
    with pytest.raises(Killed):
      corpus.build(path)
  (path / 'bits/c.1.0').write_bytes(b'stale' * 100)
  (path / 'bits/c.2.0.__lock').write_bytes(b'half a shard')
  (path / 'ledger/shard_00000003.json.partial').write_bytes(b'{')
  (path / 'ledger/shard_00000002.json').write_bytes(b'{"index": 2}')
  (path / 'scale/zarr.json').write_bytes(b'{}')
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def test_a_resumed_build_trusts_hashes_not_names(
  tmp_path, corpus, sound_cache, tree, monkeypatch
):
  path = tmp_path / 'cache'
  with monkeypatch.context() as patch:
    die_at(patch, 6, after=False)
    with pytest.raises(Killed):
      corpus.build(path)
  file = path / 'bits/c.1.0'
  content = bytearray(file.read_bytes())
  content[0] ^= 1
  file.write_bytes(content)
  encoded = []

  def encode(tokens):
    encoded.append(len(tokens))
    return corpus.encode(tokens)

  corpus.build(path, encode_fn=encode)
  # Shard 1 (damaged) and shard 3 (not in the ledger): 2 batches and 1.
  assert len(encoded) == 3
  assert tree(path) == tree(sound_cache)


def test_sigkill_at_random_instants(tmp_path, corpus, sound_cache, tree):
  path = tmp_path / 'cache'
  moments = random.Random(0)
  kills = 0
  for _ in range(5):
    process = child(path, seconds=0.01)
    assert process.stdout.readline() == 'begins\n', process.stderr.read()
    time.sleep(moments.uniform(0, 0.08))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kills += process.returncode == -signal.SIGKILL
  assert kills
  corpus.build(path)
  assert tree(path) == tree(sound_cache)
  assert verify(path) == []


def test_a_write_that_the_system_refuses_is_explained_and_resumes(
  tmp_path, corpus, sound_cache, tree
):
  path = tmp_path / 'cache'
  # Metadata fits below the limit, the bits of a shard do not.
  process = child(path, limit=1500)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1
  assert f'CacheWriteError {errno.EFBIG}:' in errors
  assert re.search('Writing shard . of 4', errors) and str(path) in errors
  assert 'start the same build again' in errors
  assert not list(path.rglob('*.__lock')) and not list(path.rglob('*.partial'))
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def test_a_disk_that_is_really_full(tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  # A file system of 64 KiB in a mount namespace that ends with the process.
  script = (
    'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"',
    str(disk),
  )
  unshare = ['unshare', '--mount', '--map-root-user', 'sh', '-c']
  try:
    probe = subprocess.run([*unshare, *script, 'true'], capture_output=True)
  except FileNotFoundError:
    pytest.skip('there is no unshare here')
  if probe.returncode:
    pytest.skip(f'no tmpfs may be mounted here: {probe.stderr.decode()}')
  # Blind, as if another program had filled the disk since the check.
  before = [*unshare, *script]
  process = child(disk / 'cache', blind=True, before=before)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1
  assert f'CacheWriteError {errno.ENOSPC}:' in errors
  assert re.search('Writing (shard . of 4|the manifest) of the cache', errors)
  assert 'free space or mend the disk' in errors


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    ValueError("Failed to write 6144 bytes [os_error_code='28']"),
  ],
)
def test_a_full_disk_keeps_what_was_written(
  tmp_path, corpus, sound_cache, tree, monkeypatch, error
):
  path = tmp_path / 'cache'
  write = files.write_atomic

  def full(path, content, tag=''):
    if path.name == 'c.2.0' and path.parent.name == 'scale':
      raise error
    write(path, content, tag)

  with monkeypatch.context() as patch:
    patch.setattr(files, 'write_atomic', full)
    with pytest.raises(CacheWriteError, match='shard 2 of 4') as caught:
      corpus.build(path)
  assert caught.value.errno == errno.ENOSPC
  kept = {file.name for file in (path / 'ledger').glob('shard_*')}
  assert kept >= {'shard_00000000.json', 'shard_00000001.json'}
  assert 'shard_00000002.json' not in kept
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def make_writer(path, corpus, **fingerprints):
  plan = builder.make_plan(
    corpus.tokens_of,
    len(corpus.tokens),
    corpus.codec_layout,
    vocab_size=corpus.vocab_size,
    passages_per_shard=8,
  )
  names = dict.fromkeys(('model', 'codec', 'tokenizer', 'corpus'), 'a')
  return writers.CacheWriter(path, plan, names | fingerprints)


def test_a_second_writer_is_refused(tmp_path, corpus):
  with make_writer(tmp_path / 'cache', corpus):
    with pytest.raises(CacheLockedError, match=f'process {os.getpid()}'):
      make_writer(tmp_path / 'cache', corpus)
  make_writer(tmp_path / 'cache', corpus).close()
  assert not (tmp_path / 'cache' / files.LOCK_NAME).exists()


def test_a_writer_in_another_process_is_refused(tmp_path, corpus):
  path = tmp_path / 'cache'
  process = child(path, seconds=20)
  try:
    assert process.stdout.readline() == 'begins\n', process.stderr.read()
    deadline = time.monotonic() + 30
    while not (path / 'bits/zarr.json').exists():
      assert time.monotonic() < deadline
      time.sleep(0.01)
    with pytest.raises(CacheLockedError, match=f'process {process.pid}'):
      corpus.build(path)
  finally:
    process.kill()
    process.communicate()
  corpus.build(path)
  assert verify(path) == []


def test_another_plan_is_refused_with_a_diff(tmp_path, corpus, tree):
  path = tmp_path / 'cache'
  make_writer(path, corpus).close()
  before = tree(path)
  with pytest.raises(CacheMismatchError) as caught:
    make_writer(path, corpus, model='b')
  (difference,) = caught.value.differences
  assert str(difference) == "fingerprints.model: expected 'b', found 'a'"
  with pytest.raises(CacheMismatchError, match='layout.passages_per_shard'):
    corpus.build(path, passages_per_shard=16)
  assert tree(path) == before


def test_a_folder_in_use_is_not_touched(tmp_path, corpus, tree):
  (tmp_path / 'thesis.tex').write_text('important')
  with pytest.raises(ValueError, match='thesis.tex'):
    corpus.build(tmp_path)
  with pytest.raises(ValueError, match='is a file'):
    corpus.build(tmp_path / 'thesis.tex')
  assert list(tree(tmp_path)) == ['thesis.tex']


def test_shards_are_held_against_the_plan(tmp_path, corpus):
  with make_writer(tmp_path / 'cache', corpus) as writer:
    assert writer.missing_shards() == [0, 1, 2, 3]
    rows = writer.plan.shard_rows(1)
    real = corpus.tokens[8:16] != 0
    encoded = corpus.encode(corpus.tokens[8:16])
    content = (
      encoded['bits'][real],
      encoded['scale'][real],
      corpus.tokens[8:16][real],
    )
    assert len(content[0]) == rows
    with pytest.raises(IndexError, match='no shard 4'):
      writer.write_shard(4, *content)
    with pytest.raises(ValueError, match='bits of shard 2 is uint8'):
      writer.write_shard(2, *content)
    with pytest.raises(ValueError, match='do not fit uint16'):
      writer.write_shard(1, *content[:2], content[2] + 70_000)
    assert writer.missing_shards() == [0, 1, 2, 3]
    writer.write_shard(1, *content)
    assert writer.missing_shards() == [0, 2, 3]
    with pytest.raises(ValueError, match='3 shards are not written'):
      writer.finish()
