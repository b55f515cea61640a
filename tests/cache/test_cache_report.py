"""The storage report counts every byte once."""

from __future__ import annotations

import json

import pytest

from btr_jax.cache.report import storage_report


def test_the_parts_are_all_the_bytes_on_disk(sound_cache, corpus):
  report = storage_report(sound_cache)
  on_disk = sum(
    file.stat().st_size for file in sound_cache.rglob('*') if file.is_file()
  )
  parts = report['parts']
  assert list(parts) == [
    'bits',
    'scale',
    'token_ids',
    'offsets',
    'manifest_and_metadata',
  ]
  assert sum(part['bytes'] for part in parts.values()) == on_disk
  assert report['total']['bytes'] == on_disk
  without = report['total_without_token_ids']['bytes']
  assert without == on_disk - parts['token_ids']['bytes']
  assert report['tokens'] == corpus.lengths.sum()
  assert report['passages'] == 27
  assert report['shards'] == 4


def test_payload_and_ratio(sound_cache, corpus):
  report = storage_report(sound_cache)
  tokens = int(corpus.lengths.sum())
  bits = report['parts']['bits']
  assert bits['payload_bytes'] == tokens * 6
  assert bits['bytes'] > bits['payload_bytes']
  assert bits['bytes_per_token'] == pytest.approx(bits['bytes'] / tokens)
  assert report['parts']['token_ids']['payload_bytes'] == tokens * 2
  assert report['parts']['offsets']['payload_bytes'] == 27 * (4 + 2)
  assert report['total']['allocated_bytes'] >= report['total']['bytes']


def test_a_codec_without_scale_has_an_empty_line(tmp_path, corpus_maker):
  corpus_maker(num_passages=5, scale_bytes=0).build(tmp_path / 'cache')
  scale = storage_report(tmp_path / 'cache')['parts']['scale']
  assert scale['bytes'] == scale['payload_bytes'] == 0


def test_the_report_is_json(sound_cache):
  report = storage_report(sound_cache)
  assert json.loads(json.dumps(report)) == report


def test_no_cache_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    storage_report(tmp_path)
