"""Appending gives the bytes of a build over the whole, or refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zarr

from btr_jax.cache import builder
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheMismatchError
from btr_jax.cache.verify import verify


def first(corpus, count):
  return dataclasses.replace(corpus, tokens=corpus.tokens[:count])


@pytest.mark.parametrize('count', [3, 8, 16, 20, 26])
def test_append_equals_a_full_build(
  tmp_path, corpus, sound_cache, tree, count, never
):
  path = tmp_path / 'cache'
  first(corpus, count).build(path)
  kept = {
    file: file.stat().st_mtime_ns
    for shard in range(count // 8)
    for file in path.glob(f'*/c.{shard}*')
  }
  encoded = []

  def encode(tokens):
    encoded.append((tokens != 0).any(axis=1).sum())
    return corpus.encode(tokens)

  corpus.build(path, builder.append, encode_fn=encode)
  assert tree(path) == tree(sound_cache)
  # Full shards were neither encoded nor written.
  assert sum(encoded) == (corpus.lengths[count // 8 * 8 :] > 0).sum()
  assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
  # Once more: nothing is left to do.
  corpus.build(path, builder.append, encode_fn=never)
  assert tree(path) == tree(sound_cache)


def test_appending_in_steps(tmp_path, corpus, sound_cache, tree):
  path = tmp_path / 'cache'
  first(corpus, 1).build(path)
  for count in (7, 9, 24, 27):
    first(corpus, count).build(path, builder.append)
    assert verify(path) == []
  assert tree(path) == tree(sound_cache)
  group = zarr.open_group(path, mode='r')
  rows = manifests.read_manifest(path).layout.rows_per_shard
  for shard, passage in ((1, 8), (3, 24)):
    length = corpus.lengths[passage]
    found = group['bits'][shard * rows : shard * rows + length]
    expected = corpus.expected()['bits'][passage, :length]
    np.testing.assert_array_equal(found, expected)


def test_an_append_that_died_goes_on_by_append_or_build(
  tmp_path, corpus, sound_cache, tree
):
  for name, step in (('a', builder.append), ('b', builder.build)):
    path = tmp_path / name
    first(corpus, 20).build(path)

    def die(tokens):
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      corpus.build(path, builder.append, encode_fn=die)
    assert manifests.read_manifest(path).status == manifests.BUILDING
    corpus.build(path, step)
    assert tree(path) == tree(sound_cache)


def other_beginning(corpus):
  tokens = corpus.tokens.copy()
  tokens[5, 0] += 1
  return dataclasses.replace(corpus, tokens=tokens)


def test_another_beginning_is_refused_and_nothing_touched(
  tmp_path, corpus, tree
):
  path = tmp_path / 'cache'
  first(corpus, 20).build(path)
  before = tree(path)
  with pytest.raises(CacheMismatchError, match='fingerprints.corpus'):
    other_beginning(corpus).build(path, builder.append)
  names = {'model': 'b', 'codec': 'codec-a', 'tokenizer': 'words'}
  with pytest.raises(CacheMismatchError, match="model: expected 'b'"):
    corpus.build(path, builder.append, fingerprints=names)
  with pytest.raises(ValueError, match='has 9 passages, the cache .* 20'):
    first(corpus, 9).build(path, builder.append)
  with pytest.raises(ValueError, match='corpus_fingerprint_of'):
    corpus.build(path, builder.append, fingerprints=names | {'corpus': 'c'})
  assert tree(path) == before


def test_a_build_is_not_an_append(tmp_path, corpus):
  first(corpus, 20).build(tmp_path / 'cache')
  with pytest.raises(CacheMismatchError, match='export-cache append'):
    corpus.build(tmp_path / 'cache')
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    corpus.build(tmp_path / 'none', builder.append)


def test_a_corpus_that_is_named_by_its_texts(tmp_path, corpus, tree):
  """As the command does it: the caller tells what the beginning is called."""
  names = {'model': 'm', 'codec': 'c', 'tokenizer': 't'}
  path = tmp_path / 'cache'
  first(corpus, 20).build(path, fingerprints=names | {'corpus': 'first 20'})
  corpus.build(
    path,
    builder.append,
    fingerprints=names | {'corpus': 'all'},
    corpus_fingerprint_of=lambda count: f'first {count}',
  )
  corpus.build(tmp_path / 'full', fingerprints=names | {'corpus': 'all'})
  assert tree(path) == tree(tmp_path / 'full')
