"""Verification finds every kind of damage; building again mends it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from btr_jax.cache import manifest as manifests
from btr_jax.cache.verify import verify


def test_a_sound_cache_has_no_problems(sound_cache):
  calls = []
  assert verify(sound_cache, lambda *done: calls.append(done)) == []
  assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def flip_bit(file, position, bit=0):
  content = bytearray(file.read_bytes())
  content[position] ^= 1 << bit
  file.write_bytes(content)


def test_one_flipped_bit_anywhere_is_found(cache):
  random = np.random.default_rng(0)
  shard_files = sorted(cache.rglob('c.*')) + sorted(cache.rglob('zarr.json'))
  assert len(shard_files) == 4 * 6 + 7
  for file in shard_files:
    position = int(random.integers(file.stat().st_size))
    flip_bit(file, position, int(random.integers(8)))
  found = {problem.file for problem in verify(cache)}
  assert found == {file.relative_to(cache).as_posix() for file in shard_files}


def test_a_problem_names_shard_file_and_passages(cache):
  flip_bit(cache / 'bits/c.1.0', 3)
  (problem,) = verify(cache)
  assert problem.shard == 1
  assert problem.passages == (8, 15)
  assert str(problem).startswith('shard 1 (passages 8 to 15), bits/c.1.0: ')
  assert 'changed' in problem.message


def test_missing_short_and_foreign_files_are_told_apart(cache):
  (cache / 'token_ids/c.0').unlink()
  file = cache / 'passage_starts/c.3'
  file.write_bytes(file.read_bytes()[:-5])
  shutil.copy(cache / 'bits/c.1.0', cache / 'bits/c.7.0')
  found = {problem.file: problem.message for problem in verify(cache)}
  assert found.keys() == {'token_ids/c.0', 'passage_starts/c.3', 'bits/c.7.0'}
  assert found['token_ids/c.0'] == 'is missing'
  assert 'expected' in found['passage_starts/c.3']
  assert found['bits/c.7.0'] == 'does not belong to the cache'


def test_a_shard_of_another_place_is_found(cache):
  shutil.copy(cache / 'passage_lengths/c.0', cache / 'passage_lengths/c.1')
  (problem,) = verify(cache)
  assert (problem.shard, problem.file) == (1, 'passage_lengths/c.1')


def test_a_damaged_manifest_is_a_problem(cache):
  path = cache / manifests.MANIFEST_NAME
  path.write_bytes(path.read_bytes().replace(b'"rows": ', b'"rows": 1', 1))
  (problem,) = verify(cache)
  assert problem.file == manifests.MANIFEST_NAME
  assert 'altered' in problem.message


def test_a_ledger_that_lacks_a_shard_is_a_problem(cache):
  path = cache / manifests.MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  del values['shards'][2]
  path.write_bytes(manifests.encode_json(values))
  messages = [str(problem) for problem in verify(cache)]
  assert any('shard 2 (passages 16 to 23)' in message for message in messages)
  assert any('the ledger has' in message for message in messages)


def test_an_unfinished_build_is_a_problem(cache):
  path = cache / manifests.MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  path.write_bytes(manifests.encode_json(values | {'status': 'building'}))
  (problem,) = verify(cache)
  assert 'not finished' in problem.message


def test_no_cache_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    verify(tmp_path)


def test_building_again_mends_what_is_damaged_and_only_that(
  cache, corpus, tree
):
  sound = tree(cache)
  flip_bit(cache / 'bits/c.0.0', 9)
  (cache / 'passage_lengths/c.2').unlink()
  flip_bit(cache / 'scale/zarr.json', 20)
  untouched = (cache / 'bits/c.1.0').stat().st_mtime_ns
  assert len(verify(cache)) == 3
  encoded = []

  def encode(tokens):
    encoded.append(tokens)
    return corpus.encode(tokens)

  corpus.build(cache, encode_fn=encode)
  assert tree(cache) == sound
  assert (cache / 'bits/c.1.0').stat().st_mtime_ns == untouched
  seen = {tuple(row) for batch in encoded for row in batch[:, :32].tolist()}
  mended = [*range(8), *range(16, 24)]
  assert seen - {(0,) * 32} == {
    tuple(corpus.tokens[passage, :32].tolist())
    for passage in mended
    if corpus.lengths[passage]
  }
