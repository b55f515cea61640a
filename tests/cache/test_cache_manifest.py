"""The manifest: what is written is read, and damage never passes."""

from __future__ import annotations

import json

import hypothesis
from hypothesis import strategies
import pytest

from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError, find_differences
from btr_jax.cache.layout import make_layout

names = strategies.text(max_size=8)
entries = strategies.builds(
  manifests.FileEntry, strategies.integers(0, 2**50), names
)
shards = strategies.builds(
  manifests.ShardEntry,
  strategies.integers(0, 2**30),
  strategies.integers(0, 2**30),
  strategies.dictionaries(names, entries, max_size=3),
)


layout_arguments = strategies.fixed_dictionaries(
  {
    'codec_kind': names,
    'bits_bytes': strategies.integers(1, 1000),
    'scale_bytes': strategies.integers(0, 4),
    'vocab_size': strategies.integers(1, 10**6),
    'max_length': strategies.integers(1, 512),
    'passages_per_shard': strategies.integers(1, 2048),
    'num_passages': strategies.integers(1, 10**8),
    'num_tokens': strategies.integers(0, 10**10),
    'lengths_sha256': names,
  }
)


@hypothesis.given(
  layout_arguments,
  strategies.dictionaries(names, names, max_size=5),
  strategies.sampled_from([manifests.BUILDING, manifests.COMPLETE]),
  strategies.dictionaries(names, entries, max_size=3),
  strategies.lists(shards, max_size=3),
)
def test_a_manifest_survives_its_json(
  arguments, fingerprints, status, metadata_files, ledger
):
  layout = make_layout(**arguments)
  manifest = manifests.Manifest(
    layout, fingerprints, status, metadata_files, tuple(ledger)
  )
  content = manifests.encode_json(manifest.to_dict())
  values = manifests.decode_json(content, 'here')
  assert manifests.Manifest.from_dict(values) == manifest


@hypothesis.given(data=strategies.data())
def test_no_damage_passes_as_another_manifest(data, sound_cache):
  content = (sound_cache / manifests.MANIFEST_NAME).read_bytes()
  sound = manifests.decode_json(content, 'here')
  position = data.draw(strategies.integers(0, len(content) - 1))
  bit = data.draw(strategies.integers(0, 7))
  damaged = bytearray(content)
  damaged[position] ^= 1 << bit
  try:
    found = manifests.decode_json(bytes(damaged), 'here')
  except CacheCorruptError as error:
    assert 'here' in str(error)
  else:
    # White space between the fields: the same manifest in other bytes.
    assert found == sound


def test_a_manifest_cut_short_names_its_path(cache):
  path = cache / manifests.MANIFEST_NAME
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(CacheCorruptError, match=str(path)):
    manifests.read_manifest(cache)


def test_another_format_version_is_refused(cache):
  path = cache / manifests.MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  path.write_bytes(manifests.encode_json(values | {'format_version': 99}))
  with pytest.raises(CacheCorruptError, match='version 99.*reads 1'):
    manifests.read_manifest(cache)


def test_a_field_from_the_future_is_refused(cache):
  path = cache / manifests.MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  values['layout']['merged'] = True
  path.write_bytes(manifests.encode_json(values))
  with pytest.raises(CacheCorruptError, match='merged'):
    manifests.read_manifest(cache)


def test_a_folder_without_manifest_is_no_cache(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    manifests.read_manifest(tmp_path)


def test_the_manifest_holds_nothing_of_time_or_place(sound_cache):
  text = (sound_cache / manifests.MANIFEST_NAME).read_text()
  assert str(sound_cache) not in text
  assert json.loads(text)['status'] == 'complete'


def test_differences_name_field_expected_and_found():
  found = find_differences({'a': 1, 'b': 2, 'c': 3}, {'a': 1, 'b': 5}, 'x.')
  assert [str(difference) for difference in found] == [
    'x.b: expected 2, found 5',
    'x.c: expected 3, found None',
  ]
