"""Several writers, one cache: the bytes are those of one writer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import time

import numpy as np
import pytest
import zarr

from btr_jax.cache import builder, merging, places
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheIncompleteError,
  CacheMismatchError,
)
from btr_jax.cache.plan import Share
from btr_jax.cache.store import CacheStore
from btr_jax.cache.verify import verify


def test_shares_divide_the_shards():
  for count in (1, 2, 3, 7):
    shares = [Share(index, count) for index in range(count)]
    shards = [shard for share in shares for shard in share.shards(5)]
    assert sorted(shards) == list(range(5))
  assert Share.parse('3/8') == Share(2, 8)
  assert Share(2, 8).tag == '.3-of-8' and Share().tag == ''


@pytest.mark.parametrize('text', ['0/3', '4/3', '3', 'a/b', '-1/2', '1/0'])
def test_what_is_no_share_is_named(text):
  with pytest.raises(ValueError, match='expected'):
    Share.parse(text)


def test_shares_fill_one_folder(tmp_path, corpus, sound_cache, tree, never):
  path = tmp_path / 'cache'
  for index in (2, 0):
    manifest = corpus.build(path, share=Share(index, 3))
    assert manifest.status == manifests.BUILDING
    with pytest.raises(CacheIncompleteError):
      CacheStore.open(path)
  # Resumed: nothing is encoded again.
  corpus.build(path, share=Share(0, 3), encode_fn=never)
  manifest = corpus.build(path, share=Share(1, 3))
  assert manifest.status == manifests.COMPLETE
  assert tree(path) == tree(sound_cache)


def test_a_share_without_shards_ends(tmp_path, corpus, sound_cache, tree):
  path = tmp_path / 'cache'
  for index in range(9):  # four shards only
    corpus.build(path, share=Share(index, 9))
  assert tree(path) == tree(sound_cache)


def test_a_share_keeps_what_a_process_beside_it_writes(tmp_path, corpus):
  path = tmp_path / 'cache'
  corpus.build(path, share=Share(0, 2))
  stray = path / 'bits/c.1.0.2-of-2.partial'
  stray.write_bytes(b'half')
  own = path / 'bits/c.2.0.1-of-2.partial'
  own.write_bytes(b'half')
  corpus.build(path, share=Share(0, 2))
  assert stray.exists() and not own.exists()


def test_damage_in_a_finished_cache_is_not_for_shares(cache, corpus):
  (cache / 'bits/c.1.0').unlink()
  with pytest.raises(ValueError, match=r'damaged in shards \[1\].*repair'):
    corpus.build(cache, share=Share(1, 2))


def test_processes_of_one_job(tmp_path, corpus, sound_cache, tree, monkeypatch):
  """Share 1 waits for share 0 to begin, share 0 for share 1 to write."""
  monkeypatch.setattr(builder, '_SECONDS_BETWEEN_LOOKS', 0.02)
  path = tmp_path / 'cache'
  names = manifests.read_manifest(sound_cache).fingerprints

  def process(index):
    return corpus.build(
      path, share=Share(index, 3), together=True, fingerprints=names
    )

  # Threads: a lock is of the one who opened it, not of the process.
  with ThreadPoolExecutor(3) as executor:
    late = [executor.submit(process, index) for index in (2, 1)]
    time.sleep(0.1)
    assert not path.exists()
    found = [process(0), *(future.result() for future in late)]
  assert {manifest.status for manifest in found} == {manifests.COMPLETE}
  assert tree(path) == tree(sound_cache)


@pytest.fixture
def parts(tmp_path, corpus):
  """Three partial caches in folders of their own."""
  folders = [tmp_path / f'part{index}' for index in range(3)]
  for index, folder in enumerate(folders):
    corpus.build(folder, share=Share(index, 3))
  return [places.open_place(folder) for folder in folders]


def test_merging_gives_the_bytes_of_one_build(
  tmp_path, corpus, parts, sound_cache, tree
):
  path = tmp_path / 'whole'
  calls = []
  manifest = merging.merge(
    parts, places.open_place(path), lambda *done: calls.append(done)
  )
  assert manifest == manifests.read_manifest(sound_cache)
  assert tree(path) == tree(sound_cache)
  assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
  assert verify(path) == []
  # An independent reader.
  group = zarr.open_group(path, mode='r')
  rows = manifest.layout.rows_per_shard
  found = group['token_ids'][3 * rows : 3 * rows + corpus.lengths[24]]
  np.testing.assert_array_equal(found, corpus.tokens[24, : len(found)])


def test_merging_into_a_part(parts, sound_cache, tree):
  merging.merge(parts, parts[0])
  assert tree(parts[0].folder) == tree(sound_cache)


def test_a_missing_share_is_named(tmp_path, parts):
  found = merging.coverage(parts[:2])
  assert found.missing == (2,) and found.bytes > 0
  with pytest.raises(ValueError, match=r'1 of 4 shards.*2 \(passages 16 to 23'):
    merging.merge(parts[:2], places.open_place(tmp_path / 'whole'))
  assert not (tmp_path / 'whole').exists()


def test_parts_of_other_plans_are_refused(tmp_path, parts, corpus):
  corpus.build(
    tmp_path / 'other',
    share=Share(2, 3),
    fingerprints={'model': 'b', 'codec': 'codec-a', 'tokenizer': 'words'},
  )
  other = places.open_place(tmp_path / 'other')
  with pytest.raises(CacheMismatchError, match="model: expected 'model-a'"):
    merging.merge([*parts[:2], other], places.open_place(tmp_path / 'whole'))


def test_a_damaged_part_is_named_and_merging_goes_on_later(
  tmp_path, parts, corpus, sound_cache, tree
):
  file = tmp_path / 'part1/scale/c.1.0'
  sound = file.read_bytes()
  file.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
  path = places.open_place(tmp_path / 'whole')
  with pytest.raises(CacheCorruptError, match=r'part1/scale/c\.1\.0.*8 to 15'):
    merging.merge(parts, path)
  corpus.build(tmp_path / 'part1', share=Share(1, 3))
  assert file.read_bytes() == sound
  merging.merge(parts, path)
  assert tree(path.folder) == tree(sound_cache)


def test_nothing_to_merge(tmp_path):
  with pytest.raises(ValueError, match='No partial caches'):
    merging.coverage([])
