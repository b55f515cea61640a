"""A look-up never returns wrong bits, whatever happens to the files."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from btr_jax.cache import checksums
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.store import CacheStore


def rows_of(lengths, width, scale_width, seed=0):
  random = np.random.default_rng(seed)
  rows = int(np.sum(lengths))
  return (
    random.integers(1, 500, rows).astype(np.uint16),
    random.integers(0, 256, (rows, width)).astype(np.uint8),
    random.integers(0, 256, (rows, scale_width)).astype(np.uint8),
  )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 4))
def test_padding_does_not_matter(lengths, extra):
  lengths = np.array(lengths, np.uint16)
  token_ids, bits, scale = rows_of(lengths, 3, 1)
  expected = checksums.of_rows(lengths, token_ids, bits, scale)
  padded_length = 16 + 8 * extra
  start = 0
  for passage, length in enumerate(lengths):
    padded = []
    for rows in (token_ids, bits, scale):
      array = np.zeros((1, padded_length, *rows.shape[1:]), rows.dtype)
      array[0, :length] = rows[start : start + length]
      padded.append(array)
    assert checksums.of_padded(*padded)[0] == expected[passage]
    start += int(length)


def test_the_function_is_frozen():
  """Caches on disk hold these numbers."""
  lengths = np.array([3, 0], np.uint16)
  token_ids = np.array([5, 6, 7], np.uint16)
  bits = np.arange(6, dtype=np.uint8).reshape(3, 2)
  scale = np.array([[1], [2], [3]], np.uint8)
  found = checksums.of_rows(lengths, token_ids, bits, scale)
  assert found.tolist() == [11736455962111475651, checksums.EMPTY_CHECKSUM]


def test_every_single_bit_counts():
  lengths = np.array([5], np.uint16)
  rows = rows_of(lengths, 3, 1)
  expected = checksums.of_rows(lengths, *rows)
  for number in range(3):
    for position in range(rows[number].nbytes * 8):
      damaged = [array.copy() for array in rows]
      view = damaged[number].view(np.uint8).reshape(-1)
      view[position // 8] ^= 1 << position % 8
      assert checksums.of_rows(lengths, *damaged) != expected


@pytest.mark.parametrize(
  'name',
  [
    'bits',
    'scale',
    'token_ids',
    'passage_starts',
    'passage_lengths',
    'passage_checksums',
  ],
)
def test_a_flipped_bit_is_never_returned(cache, corpus, name):
  """Either what was written comes back, or an error that names it."""
  file = sorted(cache.glob(f'{name}/c.1*'))[0]
  sound = file.read_bytes()
  random = np.random.default_rng(0)
  refused = 0
  for position in random.integers(0, len(sound), 12).tolist():
    damaged = bytearray(sound)
    damaged[position] ^= 1 << int(random.integers(8))
    file.write_bytes(damaged)
    try:
      found = CacheStore.open(cache).lookup(np.arange(27), 40)
    except (CacheCorruptError, ValueError) as error:
      refused += 1
      assert any(text in str(error) for text in ('shards [1]', '/c.1', 'c/1'))
      continue
    np.testing.assert_array_equal(found.bits, corpus.expected()['bits'])
    np.testing.assert_array_equal(found.token_ids, corpus.tokens)
    np.testing.assert_array_equal(found.scale, corpus.expected()['scale'])
  assert refused


def test_zeros_in_place_of_a_shard_are_refused(cache):
  for file in cache.glob('*/c.1*'):
    content = file.read_bytes()
    # All but the index, as a lost write may leave it.
    kept = len(content) // 2
    file.write_bytes(bytes(kept) + content[kept:])
  with pytest.raises(CacheCorruptError, match=r'shards \[1\]'):
    CacheStore.open(cache).lookup([8, 9, 10], 40)


def test_without_verify_damage_passes(cache, corpus):
  file = cache / 'bits/c.1.0'
  content = bytearray(file.read_bytes())
  content[0] ^= 1
  file.write_bytes(content)
  first = 8 + int(np.argmax(corpus.lengths[8:] > 0))
  with pytest.raises(CacheCorruptError, match=rf'\[{first}\]'):
    CacheStore.open(cache).lookup(np.arange(27), 40)
  found = CacheStore.open(cache, verify=False).lookup(np.arange(27), 40)
  assert (found.bits != corpus.expected()['bits']).sum() == 1


def remove_checksums(cache):
  """Makes a cache as it was before there were checksums of passages."""
  path = cache / manifests.MANIFEST_NAME
  values = json.loads(path.read_bytes())
  values.pop('content_sha256')
  values['layout']['arrays'] = [
    array
    for array in values['layout']['arrays']
    if array['name'] != 'passage_checksums'
  ]
  for shard in values['shards']:
    del shard['files']['passage_checksums']
  path.write_bytes(manifests.encode_json(values))


def test_older_caches_are_hashed_when_first_touched(cache, corpus):
  remove_checksums(cache)
  found = CacheStore.open(cache).lookup(np.arange(27), 40)
  np.testing.assert_array_equal(found.bits, corpus.expected()['bits'])
  file = cache / 'scale/c.2.0'
  content = bytearray(file.read_bytes())
  content[1] ^= 4
  file.write_bytes(content)
  store = CacheStore.open(cache)
  store.lookup(np.arange(16), 40)
  with pytest.raises(CacheCorruptError, match=r'scale/c\.2\.0 .*16 to 23'):
    store.lookup([17], 40)
