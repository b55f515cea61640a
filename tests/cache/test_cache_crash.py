"""Killed, refused or out of space at any point, a build resumes to the same."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import re
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
  """Ends the build at an atomic write, before or after it.

  `call` is its number, or the name of the file.
  """
  calls = []
  write = files.write_atomic

  def dying(path, content, tag=''):
    calls.append(path)
    if call not in (len(calls), path.name):
      return write(path, content, tag)
    if after:
      write(path, content, tag)
    raise Killed

  monkeypatch.setattr(files, 'write_atomic', dying)


# The harness below dies at far more instants; this one at every file, in the
# process of the test, where a failure can be looked at.
@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize('call', [1, 2, 7, 8, 9, 12, 20, 33, 34, 35])
def test_dying_around_any_write_resumes_to_the_same_bytes(
  tmp_path, corpus, sound_cache, tree, monkeypatch, call, after
):
  path = tmp_path / 'cache'
  with monkeypatch.context() as patch:
    die_at(patch, call, after=after)
    with pytest.raises(Killed):
      corpus.build(path)
  assert tree(path) != tree(sound_cache)
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def test_leftovers_of_a_killed_write_are_cleared(
  tmp_path, corpus, sound_cache, tree, monkeypatch
):
  path = tmp_path / 'cache'
  with monkeypatch.context() as patch:
    die_at(patch, 16, after=False)
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
    die_at(patch, 'shard_00000003.json', after=False)
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


def test_sigkill_at_instants_around_system_calls_and_at_random():
  """Build, append, repair, merge and export; crash_harness.py does it all."""
  harness = pathlib.Path(__file__).parent / 'crash_harness.py'
  result = subprocess.run(
    [sys.executable, str(harness), '--instants', '20', '--seed', '1'],
    capture_output=True,
    text=True,
    timeout=250,
  )
  assert result.returncode == 0, result.stderr
  record = json.loads(result.stdout)
  assert record['kills'] == 20
  killed = record['scenarios'].values()
  assert sum(s['identical_after_resuming'] for s in killed) == 20
  for scenario in record['scenarios'].values():
    assert scenario['instants_around_system_calls'] > 100


def test_a_write_that_the_system_refuses_is_explained_and_resumes(
  tmp_path, corpus, sound_cache, tree
):
  path = tmp_path / 'cache'
  # Metadata fits below the limit, the bits of a shard do not.
  process = child(path, limit=1600)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1
  assert f'CacheWriteError {errno.EFBIG}:' in errors
  assert re.search('Writing shard . of 4', errors) and str(path) in errors
  assert 'start the same build again' in errors
  assert not list(path.rglob('*.__lock')) and not list(path.rglob('*.partial'))
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


def test_a_disk_that_is_really_full_and_then_is_not(
  tmp_path, sound_cache, tree
):
  disk = tmp_path / 'disk'
  disk.mkdir()
  # A file system of 64 KiB in a mount namespace that ends with the process.
  # Blind, as if another program had filled the disk since the check.
  script = """
    mount -t tmpfs -o size=64k tmpfs "$0" || exit 77
    "$@"; echo "full: $?"
    mount -o remount,size=4m "$0"
    "$@"; echo "larger: $?"
    cp -r "$0/cache" "$0.after"
  """
  unshare = ['unshare', '--mount', '--map-root-user', 'sh', '-c']
  try:
    process = child(
      disk / 'cache', blind=True, before=[*unshare, script, str(disk)]
    )
  except FileNotFoundError:
    pytest.skip('there is no unshare here')
  output, errors = process.communicate(timeout=60)
  if process.returncode in (1, 77):
    pytest.skip(f'no tmpfs may be mounted here: {errors}')
  assert 'full: 1' in output and 'larger: 0' in output, errors
  assert f'CacheWriteError {errno.ENOSPC}:' in errors
  assert re.search('Writing (shard . of 4|the manifest) of the cache', errors)
  assert 'free space or mend the disk' in errors
  assert tree(tmp_path / 'disk.after') == tree(sound_cache)


@pytest.mark.parametrize('call', ['write', 'fsync', 'replace'])
def test_a_disk_that_fails_is_explained_and_resumes(
  tmp_path, corpus, sound_cache, tree, monkeypatch, call
):
  """EIO from the 30th call on, whichever file it is for."""
  path = tmp_path / 'cache'
  calls, system_call = [], getattr(os, call)

  def failing(*arguments):
    calls.append(arguments)
    if len(calls) >= 30:
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    return system_call(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(os, call, failing)
    with pytest.raises(CacheWriteError, match='Input/output error') as caught:
      corpus.build(path)
  assert caught.value.errno == errno.EIO
  assert 'start the same build again' in str(caught.value)
  assert not list(path.rglob('*.partial'))
  assert not (path / files.LOCK_NAME).exists()
  corpus.build(path)
  assert tree(path) == tree(sound_cache)


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
