"""The same look-ups through TensorStore, prefetching, many shards."""

from __future__ import annotations

import resource
import shutil

import numpy as np
import pytest

from btr_jax.cache import flat, shards
from btr_jax.cache.errors import CacheMismatchError
from btr_jax.cache.store import CacheStore


def check(found, corpus, passages):
  expected = corpus.expected()
  np.testing.assert_array_equal(found.token_ids, corpus.tokens[passages])
  np.testing.assert_array_equal(found.bits, expected['bits'][passages])
  np.testing.assert_array_equal(found.scale, expected['scale'][passages])


def test_a_url_is_read_like_a_folder(sound_cache, corpus):
  store = CacheStore.open(f'file://{sound_cache}', {'model': 'model-a'})
  passages = np.random.default_rng(0).permutation(27).reshape(3, 9)
  check(store.lookup(passages, 40), corpus, passages)
  np.testing.assert_array_equal(store.lengths([2, 1]), [40, 0])
  with pytest.raises(CacheMismatchError, match='model-b'):
    CacheStore.open(f'file://{sound_cache}', {'model': 'model-b'})


def test_few_open_shards_of_a_url(sound_cache, corpus):
  store = CacheStore.open(f'file://{sound_cache}', max_open_shards=1)
  passages = np.array([0, 26, 9, 17, 1, 25])
  check(store.lookup(passages, 40), corpus, passages)


def test_a_url_without_a_cache(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'has no manifest\.json'):
    CacheStore.open(f'file://{tmp_path}/nothing')


def test_a_remote_prefetch_is_all_that_the_next_lookup_needs(cache, corpus):
  store = CacheStore.open(f'file://{cache}')
  passages = np.array([[3, 12], [26, -1]])
  store.prefetch(passages).result()
  for name in ('bits', 'scale', 'token_ids'):
    shutil.rmtree(cache / name)
  found = store.lookup(passages, 40)
  check(
    found.__class__(found.token_ids[0], found.bits[0], found.scale[0]),
    corpus,
    passages[0],
  )


def test_a_remote_cache_keeps_no_more_than_it_may(cache):
  store = CacheStore.open(f'file://{cache}', cache_bytes=0)
  store.prefetch([3, 12, 26]).result()
  shutil.rmtree(cache / 'bits')
  with pytest.raises(ValueError, match='bits'):
    store.lookup([3, 12, 26], 40)


def test_a_local_prefetch_asks_for_the_rows(sound_cache, corpus, monkeypatch):
  asked = []
  will_need = flat.will_need

  def record(view, start, stop):
    asked.append((view.nbytes, start, stop))
    will_need(view, start, stop)

  monkeypatch.setattr(flat, 'will_need', record)
  store = CacheStore.open(sound_cache)
  store.open_shards()
  asked.clear()
  store.prefetch([2, -1]).result()
  rows = int(corpus.lengths[:8].sum())
  first = int(corpus.lengths[:2].sum())
  assert (rows * 6, first * 6, (first + 40) * 6) in asked
  check(store.lookup([2], 40), corpus, [2])


def test_a_slow_page_makes_the_rest_be_asked_for(
  sound_cache, corpus, monkeypatch
):
  """As from a cold disk: the clock says that every passage takes 1 ms."""
  asked = []
  monkeypatch.setattr(flat, 'will_need', lambda *given: asked.append(given))
  store = CacheStore.open(sound_cache)
  store.open_shards()
  asked.clear()
  ticks = iter(range(0, 10**9, 10**6))
  monkeypatch.setattr('btr_jax.cache.store.clock', lambda: next(ticks))
  passages = np.arange(27)
  check(store.lookup(passages, 40), corpus, passages)
  with_tokens = int((corpus.lengths > 0).sum())
  # Offsets of the 26 others, then rows of all others that have any.
  assert len(asked) == 3 * 26 + 3 * (with_tokens - 1)


def test_prefetch_refuses_what_lookup_refuses(sound_cache):
  with pytest.raises(IndexError, match='Passage 27'):
    CacheStore.open(sound_cache).prefetch([27])


def test_the_limit_of_open_files_is_raised_only_where_needed(monkeypatch):
  calls = []
  monkeypatch.setattr(resource, 'getrlimit', lambda which: (1024, 4096))
  monkeypatch.setattr(resource, 'setrlimit', lambda *given: calls.append(given))
  assert shards.default_open_shards(4, 6) == 1024 // 2 // 6
  assert not calls
  assert shards.default_open_shards(489, 6) == 4096 // 2 // 6
  assert calls == [(resource.RLIMIT_NOFILE, (4096, 4096))]
