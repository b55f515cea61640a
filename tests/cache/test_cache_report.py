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
    'pointers',
    'positions',
    'merge_sizes',
    'codebook',
    'token_ids',
    'text',
    'offsets',
    'checksums',
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


def test_the_totals_are_extrapolated_by_both_counts_of_tokens(sound_cache):
  report = storage_report(sound_cache)
  total = report['total']
  size, tokens = total['bytes'], report['tokens']
  assert total['bytes_per_passage'] == pytest.approx(size / 27)
  assert total['bytes_per_token_of_100'] == pytest.approx(size / 2700)
  assert total['bytes_of_corpus_tokens'] == round(size / tokens * 3.2e9)
  assert total['bytes_of_corpus_passages'] == round(size / 27 * 32.1e6)


def test_the_comparison_needs_to_know_the_dimensions(sound_cache):
  assert storage_report(sound_cache)['comparison'] is None  # residual
  found = storage_report(sound_cache, dims=768)['comparison']
  assert found['float32'] == 3072 and found['float16'] == 1536
  assert found['int8'] == 770
  assert found['paper'] == pytest.approx(39.7, abs=0.02)


def test_the_report_is_json(sound_cache):
  report = storage_report(sound_cache)
  assert json.loads(json.dumps(report)) == report


def test_no_cache_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a cache'):
    storage_report(tmp_path)
