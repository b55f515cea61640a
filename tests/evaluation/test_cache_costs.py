"""The benchmarks of caches read what they say, and count it right."""

from __future__ import annotations

import numpy as np
import pytest

from btr_jax.cache import storage_report
from btr_jax.cache.store import CacheStore
from btr_jax.cache.verify import verify
from btr_jax.evaluation import (
  cache_costs,
  lookup_speed,
  storage,
  synthetic_cache,
)
from btr_jax.tools import common


@pytest.fixture(scope='module')
def random_cache(tmp_path_factory):
  path = tmp_path_factory.mktemp('synthetic') / 'random'
  synthetic_cache.build_random(path, 1500, length=16)
  return path


def test_every_way_of_reading_gives_the_same_bits(random_cache):
  assert verify(random_cache) == []
  store = CacheStore.open(random_cache)
  passages = [1499, 0, 1024, 1023, 7]
  expected = store.lookup(passages, 16).bits.reshape(5, -1)
  assert len(np.unique(expected, axis=0)) == 5
  readers = lookup_speed.BitsReaders(random_cache, 16)
  for make in (readers.memmap, readers.take, readers.pread):
    read = make()
    np.testing.assert_array_equal(read(passages).reshape(5, -1), expected)
    if hasattr(read, 'close'):
      read.close()
  found = np.stack(readers.tensorstore()(passages))
  np.testing.assert_array_equal(found.reshape(5, -1), expected)


def test_dropped_pages_are_not_in_the_cache_any_more(random_cache):
  for file in random_cache.rglob('c.*'):
    file.read_bytes()
  assert lookup_speed.cached_share(random_cache) == 1
  lookup_speed.drop_cached_pages(random_cache)
  assert lookup_speed.cached_share(random_cache) < 0.2


def test_measure_tells_warm_and_cold(random_cache):
  setting = lookup_speed.Setting(
    passages=50, length=16, warm_repeats=4, cold_repeats=2
  )
  rows = lookup_speed.measure(random_cache, setting)
  assert [row['checks'] for row in rows] == [True] + [False] * 5
  for row in rows:
    assert row['warm']['repeats'] == 4 and row['cold']['repeats'] == 2
    assert 0 < row['warm']['smallest_ms'] <= row['warm']['median_ms']
    assert row['cold']['cached_before'] < 0.2


def test_a_sparse_cache_opens_and_looks_up(tmp_path):
  path = tmp_path / 'sparse'
  plan = synthetic_cache.build_sparse(path, 20_000, length=32)
  assert plan.num_shards > 10
  files = [file.stat() for file in path.rglob('c.*')]
  assert sum(file.st_size for file in files) > 20_000 * 32 * 98
  assert sum(file.st_blocks * 512 for file in files) < 20_000 * 98
  found = CacheStore.open(path).lookup([0, 19_999], 32)
  assert not found.bits.any()
  measured = cache_costs.opening(path, 32)
  assert 0 < measured['open_seconds'] < 60
  assert measured['resident_open_bytes'] >= measured['resident_before_bytes']


def test_compressing_is_measured_in_its_own_process(random_cache, tmp_path):
  stop_ids = synthetic_cache.stop_ids()
  measured = cache_costs.compressing(
    random_cache, tmp_path / 'small', 0.2, 64, stop_ids.tolist()
  )
  counts = measured['tokens']
  assert sum(counts.values()) == 1500 * 16
  assert 0.3 < counts['shared'] / (1500 * 16) < 0.7  # as on Wikipedia
  assert measured['cpu_seconds'] > 0
  assert measured['peak_resident_bytes'] > 2**20
  with pytest.raises(OSError, match='exists already'):
    cache_costs.compressing(random_cache, tmp_path / 'small', 0.2, 64, [])


def test_tables_of_storage(random_cache, capsys):
  report = storage_report(random_cache)
  common.console().print(storage.table(report))
  common.console().print(storage.corpus_table(report))
  text = capsys.readouterr().out
  for part in ('text (not stored)', 'where passages start', 'paper (claim)'):
    assert part in text
  assert f'{report["total"]["bytes_per_token"]:.2f}' in text
  assert '3072.00' in text  # float32 at 768 dimensions


def test_the_curve_is_drawn(random_cache, tmp_path):
  report = storage_report(random_cache)
  points = [{'ratio': r, 'report': report, 'em': 10.0} for r in (0.1, 0.2)]
  storage.plot_curve(points, tmp_path / 'curve.png')
  assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')
