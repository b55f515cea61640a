"""A compressed cache reads like the one it was made from."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from btr_jax.cache import compression, memmap
from btr_jax.cache import plan as plans
from btr_jax.cache.compression.records import RecordFiles
from btr_jax.cache.compression.verify import verify
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheLockedError,
  CacheMismatchError,
  CacheWriteError,
)
from btr_jax.cache.report import storage_report
from btr_jax.cache.store import CacheStore
from btr_jax.cache.writer import CacheWriter

PASSAGES, LENGTH, VOCABULARY = 60, 24, 20
FINGERPRINTS = dict.fromkeys(('model', 'codec', 'tokenizer', 'corpus'), 'x')
STOP = np.array([1, 2])


def build_source(path, codec_kind='calibrated', seed=0, scale_bits=16):
  """Few ids with a direction each, so that there is something to merge."""
  random = np.random.default_rng(seed)
  lengths = random.integers(0, LENGTH + 1, PASSAGES)
  lengths[8:16] = 0  # a shard without any token
  one = scale_bits // 8
  scale_bytes = {'calibrated': one, 'residual': one + 1, 'sign': 0}[codec_kind]
  plan = plans.plan(
    lengths,
    codec_kind=codec_kind,
    bits_bytes=4,
    scale_bytes=scale_bytes,
    vocab_size=VOCABULARY,
    max_length=LENGTH,
    passages_per_shard=8,
  )
  directions = random.integers(0, 2, (VOCABULARY, 32))
  with CacheWriter(path, plan, FINGERPRINTS) as writer:
    for shard in range(plan.num_shards):
      rows = plan.shard_rows(shard)
      ids = random.integers(1, VOCABULARY, rows)
      bits = directions[ids] ^ (random.random((rows, 32)) < 0.2)
      scale = random.integers(1, 100, (rows, scale_bytes)).astype(np.uint8)
      if scale_bytes and scale_bits == 16:
        scale[:, 1] = 0x40  # bfloat16 numbers of two to eight
      writer.write_shard(shard, np.packbits(bits, axis=1), scale, ids)
    writer.finish()
  return path


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return build_source(tmp_path_factory.mktemp('source') / 'cache')


def all_rows(path, **options):
  return CacheStore.open(path, **options).lookup(np.arange(PASSAGES), LENGTH)


def assert_same(found, expected):
  for name in ('token_ids', 'bits', 'scale'):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
  'codec_kind, scale_bits',
  [('calibrated', 16), ('calibrated', 8), ('residual', 16), ('sign', 16)],
)
def test_without_merging_it_is_the_same_bit_for_bit(
  tmp_path, codec_kind, scale_bits
):
  path = build_source(tmp_path / 'source', codec_kind, scale_bits=scale_bits)
  made = compression.compress(
    path, tmp_path / 'small', compression.Settings(ratio=0.0)
  )
  assert made.counts['own'] == made.layout.num_tokens
  assert_same(all_rows(tmp_path / 'small'), all_rows(path))
  assert verify(tmp_path / 'small') == []


def test_one_vector_per_stop_word_and_the_ratio_of_all_others(tmp_path, source):
  settings = compression.Settings(ratio=0.3, block_size=16)
  made = compression.compress(source, tmp_path / 'small', settings, STOP)
  before, after = all_rows(source), all_rows(tmp_path / 'small')
  np.testing.assert_array_equal(after.token_ids, before.token_ids)
  merged = 0
  for token in range(1, VOCABULARY):
    place = before.token_ids == token
    old, new = before.bits[place], after.bits[place]
    if token in STOP:
      (shared,) = np.unique(new, axis=0)
      ones = np.unpackbits(old, axis=1).mean(axis=0)
      np.testing.assert_array_equal(shared, np.packbits(ones > 0.5))
      assert len(np.unique(after.scale[place], axis=0)) == 1
    else:
      merged += int(len(old) * 0.3)
      # A merged vector is still nearer to its own than another id's is.
      distance = np.bitwise_count(old ^ new).sum(axis=1)
      assert 0 < distance.mean() < 5
  shared = np.isin(before.token_ids, STOP).sum()
  assert made.counts == {
    'shared': shared,
    'merged': merged,
    'own': made.layout.num_tokens - shared - merged,
  }
  assert verify(tmp_path / 'small') == []


def test_lookups_in_any_order_and_shape(tmp_path, source):
  compression.compress(
    source, tmp_path / 'small', compression.Settings(0.4), STOP
  )
  whole = all_rows(tmp_path / 'small')
  store = CacheStore.open(tmp_path / 'small', max_open_shards=1)
  passages = np.array([[59, -1, 3], [17, 3, 10]])
  store.prefetch(passages).result()
  found = store.lookup(passages, LENGTH + 3)
  for name in ('token_ids', 'bits', 'scale'):
    values = getattr(found, name)
    assert values.shape[:3] == (2, 3, LENGTH + 3)
    assert not values[0, 1].any() and not values[:, :, LENGTH:].any()
    for place in ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2)):
      np.testing.assert_array_equal(
        values[place][:LENGTH], getattr(whole, name)[passages[place]]
      )
  np.testing.assert_array_equal(
    store.lengths(np.arange(PASSAGES)), (whole.token_ids != 0).sum(axis=1)
  )


def test_the_same_bytes_whatever_the_memory(tmp_path, source, tree):
  settings = compression.Settings(0.25, block_size=8)
  compression.compress(source, tmp_path / 'a', settings, STOP)
  compression.compress(
    source, tmp_path / 'b', settings, STOP[::-1], memory_bytes=1
  )
  assert tree(tmp_path / 'a') == tree(tmp_path / 'b')
  assert not list(tmp_path.glob('*.partial'))


def test_the_report_counts_every_byte(tmp_path, source):
  path = tmp_path / 'small'
  made = compression.compress(source, path, compression.Settings(0.5), STOP)
  report = storage_report(path)
  on_disk = sum(f.stat().st_size for f in path.rglob('*') if f.is_file())
  assert report['total']['bytes'] == on_disk
  parts = report['parts']
  assert sum(part['bytes'] for part in parts.values()) == on_disk
  own, merged = made.counts['own'], made.counts['merged']
  assert parts['bits']['payload_bytes'] == 4 * own
  assert parts['scale']['payload_bytes'] == 2 * own
  assert parts['merge_sizes']['payload_bytes'] == own
  assert parts['pointers']['payload_bytes'] == 4 * merged
  assert parts['codebook']['bytes'] > len(STOP) * 6
  assert report['compression']['tokens'] == made.counts


def test_merge_sizes_add_up_to_the_tokens(tmp_path, source):
  import zarr

  path = tmp_path / 'small'
  made = compression.compress(source, path, compression.Settings(0.5), STOP)
  sizes = zarr.open_group(path, mode='r')['sizes']
  stride = made.layout.rows_per_shard
  total = sum(
    int(sizes[i * stride : i * stride + shard.rows['vectors']].sum())
    for i, shard in enumerate(made.shards)
    if shard.rows['vectors']
  )
  assert total == made.counts['own'] + made.counts['merged']


@pytest.mark.parametrize(
  'name',
  ['bits', 'scale', 'token_ids', 'merged', 'pointers', 'vector_starts'],
)
def test_damage_is_never_returned(tmp_path, source, name):
  path = tmp_path / 'small'
  compression.compress(source, path, compression.Settings(0.4), STOP)
  expected = all_rows(path)
  file = sorted(path.glob(f'{name}/c.2*'))[0]
  sound = file.read_bytes()
  random = np.random.default_rng(0)
  for position in random.integers(0, len(sound), 8).tolist():
    damaged = bytearray(sound)
    damaged[position] ^= 1 << int(random.integers(8))
    file.write_bytes(damaged)
    assert [problem.shard for problem in verify(path)] == [2]
    try:
      found = all_rows(path)
    except CacheCorruptError:
      continue
    assert_same(found, expected)  # it hit padding


def test_what_is_refused(tmp_path, source):
  small = tmp_path / 'small'
  compression.compress(source, small, compression.Settings())
  with pytest.raises(FileExistsError, match='exists already'):
    compression.compress(source, small, compression.Settings())
  with pytest.raises(ValueError, match='compressed already'):
    compression.compress(small, tmp_path / 'b', compression.Settings())
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    compression.compress(tmp_path, tmp_path / 'b', compression.Settings())
  with pytest.raises(ValueError, match=r'ratio is 0\.6'):
    compression.Settings(0.6)
  with pytest.raises(ValueError, match='block_size is 1'):
    compression.Settings(block_size=1)
  with pytest.raises(CacheMismatchError, match="model: expected 'y'"):
    CacheStore.open(small, {'model': 'y'})
  (small / 'sizes/c.3').unlink()
  with pytest.raises(CacheCorruptError, match=r'sizes/c\.3 is missing'):
    CacheStore.open(small)
  assert not (tmp_path / 'b').exists()


def test_a_full_disk_is_seen_before_anything_is_written(
  tmp_path, source, monkeypatch
):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(CacheWriteError, match='1,000 free. Free'):
    compression.compress(source, tmp_path / 'small', compression.Settings())
  assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, source, monkeypatch):
  def full(self, numbers, records):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(RecordFiles, 'append', full)
  with pytest.raises(CacheWriteError, match='Nothing is left') as caught:
    compression.compress(source, tmp_path / 'small', compression.Settings())
  assert caught.value.errno == errno.ENOSPC
  assert not list(tmp_path.iterdir())


def test_a_damaged_source_is_refused_and_nothing_stays(tmp_path):
  path = build_source(tmp_path / 'source')
  file = path / 'bits/c.4.0'
  content = bytearray(file.read_bytes())
  content[5] ^= 8
  file.write_bytes(content)
  with pytest.raises(CacheCorruptError, match=r'bits/c\.4\.0 .*32 to 39'):
    compression.compress(path, tmp_path / 'small', compression.Settings())
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ['source']


_PROGRAM = """
import os, sys, time
import numpy as np
from btr_jax.cache import compression
from btr_jax.cache.compression import placing

step = int(sys.argv[3])
def progress(done, total):
  global step
  step -= 1
  if step == 0:
    print('now', flush=True)
    time.sleep(60)
compression.compress(
  sys.argv[1], sys.argv[2], compression.Settings(0.3, block_size=16),
  np.array([1, 2]), progress=progress)
"""


def test_killed_it_leaves_nothing_and_starts_anew(tmp_path, source, tree):
  settings = compression.Settings(0.3, block_size=16)
  calls = []
  compression.compress(
    source,
    tmp_path / 'whole',
    settings,
    STOP,
    progress=lambda *done: calls.append(done),
  )
  assert calls[-1][0] == calls[-1][1]
  small = tmp_path / 'small'
  for step in (3, len(calls) // 2, len(calls)):
    process = subprocess.Popen(
      [sys.executable, '-c', _PROGRAM, str(source), str(small), str(step)],
      stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b'now\n'
    with pytest.raises(CacheLockedError, match='Another process'):
      compression.compress(source, small, settings, STOP)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not small.exists()
  assert (tmp_path / 'small.partial/work').is_dir()
  compression.compress(source, small, settings, STOP)
  assert tree(small) == tree(tmp_path / 'whole')
  assert not (tmp_path / 'small.partial').exists()


def test_export_as_numpy_arrays(tmp_path, source):
  compression.compress(
    source, tmp_path / 'small', compression.Settings(0.3), STOP
  )
  for path in (source, tmp_path / 'small'):
    flat = tmp_path / f'flat-{path.name}'
    written = memmap.export_memmap(path, flat)
    arrays = {
      name.removesuffix('.npy'): np.load(flat / name, mmap_mode='r')
      for name in written['files']
    }
    rows = all_rows(path)
    real = rows.token_ids != 0
    starts = arrays['passage_starts']
    assert starts[0] == 0 and starts[-1] == real.sum() == written['tokens']
    np.testing.assert_array_equal(np.diff(starts), real.sum(axis=1))
    for name in ('token_ids', 'bits', 'scale'):
      np.testing.assert_array_equal(arrays[name], getattr(rows, name)[real])
    with pytest.raises(FileExistsError, match='exists already'):
      memmap.export_memmap(path, flat)
  assert not list(tmp_path.glob('*.partial'))
