"""Whatever is damaged is found and named; repair builds that and no more."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from btr_jax.cache import builder
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheMismatchError
from btr_jax.cache.verify import verify


def flip(file, position, bit):
  content = bytearray(file.read_bytes())
  content[position] ^= 1 << bit
  file.write_bytes(content)


def test_one_flipped_bit_at_a_hundred_places(cache, corpus, tree):
  """Bits, scales, ids, offsets, lengths, metadata, manifest, its copy."""
  sound = tree(cache)
  random = np.random.default_rng(0)
  files = sorted(file for file in cache.rglob('*') if file.is_file())
  assert len(files) == 4 * 6 + 7 + 2
  rebuilt = 0
  for number in range(100):
    # Every file at least three times, then wherever the bytes are.
    file = files[number % len(files)]
    content = file.read_bytes()
    flip(file, int(random.integers(len(content))), int(random.integers(8)))
    problems = verify(cache)
    name = file.relative_to(cache).as_posix()
    assert {problem.file for problem in problems} == {name}, name
    shard = name.partition('/c.')[2].partition('.')[0]
    if shard:
      first = 8 * int(shard)
      last = min(first + 7, 26)
      assert problems[0].shard == int(shard)
      assert problems[0].passages == (first, last)
    if number < len(files):
      encoded = []

      def encode(tokens, encoded=encoded):
        encoded.append(tokens)
        return corpus.encode(tokens)

      corpus.build(
        cache, builder.repair, encode_fn=encode, passages_per_shard=None
      )
      assert tree(cache) == sound, name
      # Two batches of four, or one for the last three; none for metadata.
      assert len(encoded) == (0 if not shard else 1 if shard == '3' else 2)
      rebuilt += len(encoded)
    else:
      file.write_bytes(content)
  assert rebuilt == 6 * (2 + 2 + 2 + 1)


def repair(corpus, cache, **options):
  return corpus.build(cache, builder.repair, **options)


def test_missing_short_and_foreign_shards(cache, corpus, tree):
  sound = tree(cache)
  (cache / 'token_ids/c.0').unlink()
  file = cache / 'bits/c.2.0'
  file.write_bytes(file.read_bytes()[:-5])
  shutil.copy(cache / 'passage_lengths/c.0', cache / 'passage_lengths/c.1')
  shutil.copy(cache / 'bits/c.1.0', cache / 'bits/c.7.0')
  assert len(verify(cache)) == 4
  repair(corpus, cache)
  assert tree(cache) == sound
  assert verify(cache) == []
  group = zarr.open_group(cache, mode='r')
  rows = manifests.read_manifest(cache).layout.rows_per_shard
  found = group['token_ids'][: corpus.lengths[0]]
  np.testing.assert_array_equal(found, corpus.tokens[0, : len(found)])
  found = group['bits'][2 * rows : 2 * rows + corpus.lengths[16]]
  expected = corpus.expected()['bits'][16, : len(found)]
  np.testing.assert_array_equal(found, expected)


def test_a_stale_manifest_gives_way_to_its_copy(
  cache, tmp_path, corpus, corpus_maker, tree, never
):
  sound = tree(cache)
  corpus_maker(seed=5).build(tmp_path / 'other')
  shutil.copy(tmp_path / 'other' / manifests.MANIFEST_NAME, cache)
  problems = verify(cache)
  assert {problem.shard for problem in problems} == {0, 1, 2, 3, None}
  assert any('stale' in problem.message for problem in problems)
  repair(corpus, cache, encode_fn=never)  # no shard is encoded
  assert tree(cache) == sound


@pytest.mark.parametrize('damage', ['cut', 'gone'])
def test_both_manifests_lost_means_building_all(cache, corpus, tree, damage):
  sound = tree(cache)
  for name in (manifests.MANIFEST_NAME, manifests.COPY_NAME):
    if damage == 'cut':
      (cache / name).write_bytes(b'{"half')
    else:
      (cache / name).unlink()
  encoded = []

  def encode(tokens):
    encoded.append(tokens)
    return corpus.encode(tokens)

  repair(corpus, cache, encode_fn=encode)
  assert len(encoded) == 7
  assert tree(cache) == sound


def test_a_lost_manifest_is_found(cache, corpus, tree, never):
  sound = tree(cache)
  (cache / manifests.MANIFEST_NAME).unlink()
  (problem,) = verify(cache)
  assert 'copy is there' in problem.message
  repair(corpus, cache, encode_fn=never)
  assert tree(cache) == sound


def test_another_cache_is_not_overwritten(cache, corpus_maker, tree):
  before = tree(cache)
  with pytest.raises(CacheMismatchError, match='reader that built it'):
    repair(corpus_maker(seed=5), cache)
  assert tree(cache) == before


def test_a_folder_that_is_no_cache(tmp_path, corpus):
  (tmp_path / 'thesis.tex').write_text('important')
  with pytest.raises(FileNotFoundError, match='not a cache, nor what is left'):
    repair(corpus, tmp_path)
  assert [file.name for file in tmp_path.iterdir()] == ['thesis.tex']


def test_an_interrupted_build_is_finished_by_repair(
  tmp_path, corpus, sound_cache, tree
):
  path = tmp_path / 'cache'

  def die(tokens):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    corpus.build(path, encode_fn=die)
  repair(corpus, path)
  assert tree(path) == tree(sound_cache)
