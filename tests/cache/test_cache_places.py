"""Folders and TensorStore's key-value stores hold the same cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorstore as ts

from btr_jax.cache import arrays, builder, copying, places, shard_files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheIncompleteError,
  CacheLockedError,
  CacheMismatchError,
)
from btr_jax.cache.plan import Share
from btr_jax.cache.verify import verify


@pytest.fixture(params=['memory', 'file'])
def url(request, tmp_path):
  """An empty place of its own for every test."""
  return f'{request.param}://{tmp_path}/store'


def contents(place):
  place = places.open_place(place)
  return {name: place.read(name) for name in place.names()}


def test_a_build_on_a_url_has_the_same_files(url, corpus, sound_cache, never):
  corpus.build(url)
  assert contents(url) == contents(sound_cache)
  assert verify(url) == []
  corpus.build(url, encode_fn=never)  # nothing to do


def test_damage_on_a_url_is_found_and_mended(url, corpus, sound_cache):
  corpus.build(url)
  place = places.open_place(url)
  content = bytearray(place.read('bits/c.1.0'))
  content[5] ^= 1
  place.write('bits/c.1.0', bytes(content))
  place.remove('scale/c.3.0')
  assert {problem.shard for problem in verify(url)} == {1, 3}
  corpus.build(url, builder.repair)
  assert contents(url) == contents(sound_cache)


def test_shares_and_append_on_a_url(url, corpus, sound_cache):
  dataclasses.replace(corpus, tokens=corpus.tokens[:20]).build(url)
  corpus.build(url, builder.append)
  assert contents(url) == contents(sound_cache)
  for index in range(2):
    corpus.build(f'{url}/shares', share=Share(index, 2))
  assert contents(f'{url}/shares') == contents(sound_cache)


def test_a_second_writer_on_a_url_is_refused(url, corpus):
  lock = places.open_place(url).lock()
  with pytest.raises(CacheLockedError, match='remove the object'):
    corpus.build(url)
  lock.release()


def test_export_there_and_back(url, tmp_path, sound_cache, tree):
  calls = []
  copied = copying.export(
    places.open_place(sound_cache),
    places.open_place(url),
    lambda *done: calls.append(done),
  )
  assert contents(url) == contents(sound_cache)
  assert copied.files == 31 and copied.present == 0
  assert calls[-1] == (copied.bytes, copied.bytes)
  back = tmp_path / 'back'
  copying.export(places.open_place(url), places.open_place(back))
  assert tree(back) == tree(sound_cache)


def test_an_export_goes_on_and_checks(tmp_path, sound_cache, cache, tree):
  source, target = places.open_place(cache), places.open_place(tmp_path / 't')
  planned = copying.export(source, target, dry_run=True)
  assert planned.files == 31 and not target.folder.exists()
  target.write('bits/c.0.0', source.read('bits/c.0.0'))
  target.write('bits/c.1.0', b'half')
  (target.folder / 'bits/c.2.0.partial').write_bytes(b'half')
  copied = copying.export(source, target)
  assert (copied.files, copied.present) == (30, 1)
  assert tree(target.folder) == tree(sound_cache)


def test_exports_that_are_refused(tmp_path, cache, corpus, corpus_maker):
  source = places.open_place(cache)
  other = tmp_path / 'other'
  corpus_maker(seed=5).build(other)
  with pytest.raises(CacheMismatchError, match='Export to a new place'):
    copying.export(source, places.open_place(other))
  (tmp_path / 'used').mkdir()
  (tmp_path / 'used/thesis.tex').write_text('important')
  with pytest.raises(ValueError, match='thesis.tex'):
    copying.export(source, places.open_place(tmp_path / 'used'))
  corpus.build(tmp_path / 'half', share=Share(0, 2))
  with pytest.raises(CacheIncompleteError, match='not finished'):
    copying.export(
      places.open_place(tmp_path / 'half'), places.open_place(tmp_path / 'x')
    )
  (cache / 'bits/c.1.0').write_bytes(b'short')
  with pytest.raises(CacheCorruptError, match=r'bits/c\.1\.0 is not what'):
    copying.export(source, places.open_place(tmp_path / 'x'))
  # Without its manifest nobody takes the copy for a cache.
  with pytest.raises(FileNotFoundError):
    manifests.read_manifest(tmp_path / 'x')


def test_tensorstore_would_write_the_same_shards(cache, corpus, tmp_path):
  """An oracle: its own writer, through the metadata of the cache."""
  layout = manifests.read_manifest(cache).layout
  for array in layout.arrays:
    source = arrays.open_array(cache, layout, array)
    spec = arrays.array_spec(tmp_path / 'theirs', layout, array)
    theirs = ts.open(spec, create=True).result()
    for shard, (first, last) in enumerate(
      layout.passage_range(shard) for shard in range(layout.num_shards)
    ):
      tokens = int(corpus.lengths[first:last].sum())
      rows = array.padded_rows(layout.rows_of(array, shard, tokens))
      begin = shard * array.rows_per_shard
      with ts.Transaction() as transaction:
        theirs.with_transaction(transaction)[begin : begin + rows] = (
          source[begin : begin + rows].read().result()
        )
      name = array.file_name(shard)
      ours = (cache / name).read_bytes()
      assert (tmp_path / 'theirs' / name).read_bytes() == ours
    meta = f'{array.name}/zarr.json'
    assert (tmp_path / 'theirs' / meta).read_bytes() == (
      cache / meta
    ).read_bytes()


def test_a_shard_of_whole_chunks_has_no_padding(cache):
  array = manifests.read_manifest(cache).layout.array('token_ids')
  rows = np.arange(array.chunk_rows, dtype=np.uint16)
  pieces = shard_files.file_pieces(array, rows)
  assert [len(piece) for piece in pieces] == [rows.nbytes, array.index_bytes]
  pieces = shard_files.file_pieces(array, rows[:-1])
  assert sum(map(len, pieces)) == array.file_bytes(len(rows) - 1)


def test_an_unknown_kind_of_url(corpus):
  with pytest.raises(ValueError):
    places.open_place('gopher://somewhere')


@pytest.mark.parametrize(
  'url, driver', [('gs://bucket/a/cache', 'gcs'), ('s3://bucket/a/cache', 's3')]
)
def test_the_buckets_that_urls_name(cache, url, driver):
  """By configuration alone: no bucket is asked for anything."""
  layout = manifests.read_manifest(cache).layout
  whole = ts.KvStore.Spec(arrays.kvstore_spec(url)).to_json()
  assert whole == {'driver': driver, 'bucket': 'bucket', 'path': 'a/cache/'}
  for array in layout.arrays:
    spec = ts.Spec(arrays.array_spec(url, layout, array)).to_json()
    store = spec['kvstore']
    assert spec['driver'] == 'zarr3' and store['driver'] == driver
    assert store['bucket'] == 'bucket'
    assert store['path'] == f'a/cache/{array.name}/'
