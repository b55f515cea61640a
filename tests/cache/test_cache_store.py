"""Look-ups give back what was written, and refuse what they cannot give."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import json

import google_crc32c
import numpy as np
import pytest
import zarr

from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheIncompleteError,
  CacheMismatchError,
)
from btr_jax.cache.store import CacheStore


def check_rows(found, corpus, passages):
  """Compares a look-up with the corpus, token by token."""
  expected = corpus.expected()
  np.testing.assert_array_equal(found.token_ids, corpus.tokens[passages])
  np.testing.assert_array_equal(found.bits, expected['bits'][passages])
  np.testing.assert_array_equal(found.scale, expected['scale'][passages])


def test_every_passage_comes_back(sound_cache, corpus):
  passages = np.random.default_rng(1).permutation(27).reshape(3, 9)
  found = CacheStore.open(sound_cache).lookup(passages, 40)
  assert found.token_ids.shape == (3, 9, 40)
  assert found.token_ids.dtype == np.int32
  assert found.bits.shape == (3, 9, 40, 6)
  assert found.scale.shape == (3, 9, 40, 2)
  check_rows(found, corpus, passages)


def test_a_longer_length_pads_and_repeats_are_allowed(sound_cache, corpus):
  found = CacheStore.open(sound_cache).lookup([2, 26, 2], 64)
  assert not found.bits[:, 40:].any() and not found.scale[:, 40:].any()
  assert not found.token_ids[:, 40:].any()
  expected = corpus.expected()['bits'][[2, 26, 2]]
  np.testing.assert_array_equal(found.bits[:, :40], expected)


def test_minus_one_is_an_empty_passage(sound_cache, corpus):
  found = CacheStore.open(sound_cache).lookup(np.array([[-1, 5]]), 40)
  assert not found.token_ids[0, 0].any() and not found.bits[0, 0].any()
  assert not found.scale[0, 0].any()
  np.testing.assert_array_equal(found.token_ids[0, 1], corpus.tokens[5])


def test_no_ids_give_no_rows(sound_cache):
  found = CacheStore.open(sound_cache).lookup(np.zeros((0, 3), np.int64), 40)
  assert found.bits.shape == (0, 3, 40, 6)


@pytest.mark.parametrize('wrong', [27, -2, 10**12])
def test_an_id_outside_the_corpus_is_named(sound_cache, wrong):
  store = CacheStore.open(sound_cache)
  with pytest.raises(IndexError, match=f'Passage {wrong} .*0 to 26'):
    store.lookup([0, wrong], 40)
  with pytest.raises(IndexError, match=f'Passage {wrong} '):
    store.lengths([wrong])


def test_ids_must_be_integers(sound_cache):
  with pytest.raises(IndexError, match='float64'):
    CacheStore.open(sound_cache).lookup([0.0], 40)


def test_no_passage_is_cut_silently(sound_cache):
  store = CacheStore.open(sound_cache)
  with pytest.raises(ValueError, match='Passage 2 has 40 tokens.*is 39'):
    store.lookup([2], 39)


def test_lengths(sound_cache, corpus):
  found = CacheStore.open(sound_cache).lengths(np.array([[2, 1], [-1, 26]]))
  lengths = corpus.lengths
  np.testing.assert_array_equal(found, [[40, 0], [0, lengths[26]]])


def test_few_open_shards_give_the_same(sound_cache, corpus):
  store = CacheStore.open(sound_cache, max_open_shards=1)
  passages = np.array([0, 26, 9, 17, 1, 25])
  check_rows(store.lookup(passages, 40), corpus, passages)
  check_rows(store.lookup(passages, 40), corpus, passages)


def test_threads_may_share_a_store(sound_cache, corpus):
  store = CacheStore.open(sound_cache, max_open_shards=2)
  random = np.random.default_rng(2)
  batches = [random.integers(0, 27, 12) for _ in range(40)]
  with ThreadPoolExecutor(4) as executor:
    found = list(executor.map(lambda ids: store.lookup(ids, 40), batches))
  for passages, rows in zip(batches, found, strict=True):
    check_rows(rows, corpus, passages)


@pytest.mark.parametrize(
  'options', [{'scale_bytes': 0}, {'vocab_size': 100_000}]
)
def test_other_codecs_and_vocabularies(tmp_path, corpus_maker, options):
  corpus = corpus_maker(num_passages=9, **options)
  if 'vocab_size' in options:
    corpus.tokens[2, 0] = 99_999
  corpus.build(tmp_path / 'cache')
  found = CacheStore.open(tmp_path / 'cache').lookup(np.arange(9), 40)
  check_rows(found, corpus, np.arange(9))


def test_a_shard_of_empty_passages_has_no_rows(tmp_path, corpus_maker):
  corpus = corpus_maker(num_passages=20)
  corpus.tokens[8:16] = 0
  corpus.build(tmp_path / 'cache')
  assert not (tmp_path / 'cache/bits/c.1.0').exists()
  found = CacheStore.open(tmp_path / 'cache').lookup(np.arange(20), 40)
  check_rows(found, corpus, np.arange(20))


def test_zarr_python_reads_the_same_bytes(sound_cache, corpus):
  group = zarr.open_group(sound_cache, mode='r')
  manifest = manifests.read_manifest(sound_cache)
  lengths, expected = corpus.lengths, corpus.expected()
  per_shard = manifest.layout.passages_per_shard
  for passage in range(27):
    start = int(group['passage_starts'][passage])
    start += passage // per_shard * manifest.layout.rows_per_shard
    length = int(group['passage_lengths'][passage])
    assert length == lengths[passage]
    rows = slice(start, start + length)
    for name in ('bits', 'scale'):
      np.testing.assert_array_equal(
        group[name][rows], expected[name][passage, :length]
      )
    np.testing.assert_array_equal(
      group['token_ids'][rows], corpus.tokens[passage, :length]
    )


def swap_first_chunks(file, array):
  """Puts a shard's first two chunks in the other order; still valid zarr."""
  content = file.read_bytes()
  size = array.chunk_rows * array.row_bytes
  body, index = content[: -array.index_bytes], content[-array.index_bytes : -4]
  entries = np.frombuffer(index, '<u8').reshape(-1, 2).copy()
  entries[:2, 0] = size, 0
  index = entries.tobytes()
  checksum = google_crc32c.value(index).to_bytes(4, 'little')
  body = body[size : 2 * size] + body[:size] + body[2 * size :]
  file.write_bytes(body + index + checksum)


def test_a_shard_that_is_not_flat_is_read_by_tensorstore(cache, corpus):
  layout = manifests.read_manifest(cache).layout
  for name in ('bits', 'scale', 'token_ids'):
    array = layout.array(name)
    before = (cache / array.file_name(0)).read_bytes()
    swap_first_chunks(cache / array.file_name(0), array)
    assert (cache / array.file_name(0)).read_bytes() != before
  found = CacheStore.open(cache).lookup(np.arange(27), 40)
  check_rows(found, corpus, np.arange(27))


def test_a_cache_of_another_model_is_refused_with_a_diff(sound_cache):
  expected = {'model': 'model-b', 'codec': 'codec-a', 'tokenizer': 'letters'}
  with pytest.raises(CacheMismatchError) as caught:
    CacheStore.open(sound_cache, expected)
  found = {d.field: (d.expected, d.found) for d in caught.value.differences}
  assert found == {
    'model': ('model-b', 'model-a'),
    'tokenizer': ('letters', 'words'),
  }
  assert "model: expected 'model-b', found 'model-a'" in str(caught.value)
  assert str(sound_cache) in str(caught.value)


def test_the_right_fingerprints_open_it(sound_cache):
  store = CacheStore.open(sound_cache, {'model': 'model-a', 'codec': 'codec-a'})
  assert store.num_passages == 27
  assert store.manifest.fingerprints['tokenizer'] == 'words'


def test_an_unfinished_cache_is_refused(cache):
  path = cache / manifests.MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  path.write_bytes(manifests.encode_json(values | {'status': 'building'}))
  with pytest.raises(CacheIncompleteError, match='not finished'):
    CacheStore.open(cache)


def test_a_missing_shard_is_named(cache):
  (cache / 'scale/c.2.0').unlink()
  with pytest.raises(CacheCorruptError, match=r'c\.2\.0 is missing.*16 to 23'):
    CacheStore.open(cache)


def test_a_short_shard_is_named(cache):
  file = cache / 'bits/c.3.0'
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(CacheCorruptError, match=r'c\.3\.0 has .*24 to 26'):
    CacheStore.open(cache)


def test_a_ledger_without_a_shard_is_refused(cache):
  path = cache / manifests.MANIFEST_NAME
  values = json.loads(path.read_bytes())
  values.pop('content_sha256')
  del values['shards'][1]
  path.write_bytes(manifests.encode_json(values))
  with pytest.raises(CacheCorruptError, match='lists 3 shards; expected 4'):
    CacheStore.open(cache)
