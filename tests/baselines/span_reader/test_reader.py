"""Answers, folders and caches of a span reader."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from btr_jax import cache as cache_lib
from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import files
from btr_jax.baselines.span_reader.reader import SpanReader
from btr_jax.cache import compression
from btr_jax.data.records import Passage


@pytest.fixture(scope='module')
def binary(untrained):
  return SpanReader(untrained, 'binary')


@pytest.fixture(scope='module')
def corpus(passages):
  found = {(p.title, p.text): p for own in passages for p in own}
  return list(found.values())


@pytest.fixture(scope='module')
def cache(binary, corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp('caches') / 'cache'
  binary.build_cache(path, corpus)
  return path


@pytest.mark.parametrize('mode', config_lib.MODES)
def test_answers_stand_in_a_passage(mode, untrained, questions, passages):
  reader = SpanReader(untrained, mode)
  answers = reader.answer(questions, passages)
  for answer, own in zip(answers, passages, strict=True):
    assert answer and any(answer in passage.text for passage in own)
  # Padding to a larger batch, and fewer passages beside, change nothing.
  alone = reader.answer(questions[1:2], passages[1:2], batch_size=4)
  assert alone == answers[1:2]


def test_cached_equals_recomputed(
  binary, untrained, cache, corpus, questions, passages
):
  reader = SpanReader(untrained, 'binary')
  reader.open_cache(cache, corpus)
  assert reader.has_cache and not binary.has_cache
  tokens = reader.tokenizer.passages([p for own in passages for p in own])
  found = reader._spans(questions, passages, tokens, None)
  wanted = binary._spans(questions, passages, tokens, None)
  for left, right in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(left, right)


def test_a_compressed_cache_keeps_every_place(
  untrained, cache, corpus, questions, passages, tmp_path
):
  stop = untrained.tokenizer.stop_ids()
  names = untrained.tokenizer._tokenizer
  assert {names.token_to_id(word) for word in ('the', '.')} <= set(stop)
  assert not {names.token_to_id(w) for w in ('lima', '##s', '[SEP]')} & set(
    stop
  )
  small = tmp_path / 'small'
  made = compression.compress(
    cache, small, compression.Settings(ratio=0.4), stop
  )
  assert made.counts['shared'] > 0 and made.counts['merged'] > 0
  reader = SpanReader(untrained, 'binary')
  reader.open_cache(small, corpus)
  answers = reader.answer(questions, passages)
  for answer, own in zip(answers, passages, strict=True):
    assert answer and any(answer in passage.text for passage in own)
  whole = cache_lib.CacheStore.open(cache).lookup([0, 1], 40)
  again = cache_lib.CacheStore.open(small).lookup([0, 1], 40)
  np.testing.assert_array_equal(whole.token_ids, again.token_ids)
  assert not np.array_equal(whole.bits, again.bits)


def test_a_cache_of_others_is_refused(
  untrained, binary, cache, corpus, questions, passages
):
  stranger = SpanReader(
    dataclasses.replace(untrained, fingerprint='other'), 'binary'
  )
  with pytest.raises(cache_lib.CacheMismatchError, match='untrained'):
    stranger.open_cache(cache, corpus)
  reader = SpanReader(untrained, 'binary')
  with pytest.raises(ValueError, match='given were 1'):
    reader.open_cache(cache, corpus[:1])
  reader.open_cache(cache, corpus)
  new = [[Passage('x', 'new', 'Capital: Lima.')]]
  with pytest.raises(ValueError, match="'x' .* is not in the cache"):
    reader.answer(questions[:1], new)
  reader.open_cache(cache, corpus[::-1])
  with pytest.raises(ValueError, match='other tokens'):
    reader.answer(questions, passages)
  with pytest.raises(ValueError, match="mode 'joint'"):
    SpanReader(untrained, 'joint').build_cache(cache, corpus)


def test_bytes_per_token(untrained, binary, cache, corpus):
  assert SpanReader(untrained, 'joint').bytes_per_token is None
  assert SpanReader(untrained, 'decomposed').bytes_per_token == 128
  assert binary.bytes_per_token == 4 and binary.storage() is None
  reader = SpanReader(untrained, 'binary')
  reader.open_cache(cache, corpus)
  layout = cache_lib.read_manifest(cache).layout
  assert (layout.bits_bytes, layout.scale_bytes) == (4, 0)
  assert reader.bytes_per_token > 4  # everything in the folder counts
  stored = [path for path in cache.rglob('*') if path.is_file()]
  assert reader.storage()['total']['bytes'] == sum(
    path.stat().st_size for path in stored
  )
  assert reader.model_bytes == sum(
    leaf.nbytes for leaf in jax.tree.leaves(untrained.params)
  )


def test_a_folder_gives_the_same_reader(untrained, tmp_path):
  files.save(
    tmp_path,
    untrained.config,
    'binary',
    untrained.params,
    untrained.tokenizer,
    {'trained': 'no'},
  )
  found = files.load(tmp_path)
  assert (found.config, found.mode) == (untrained.config, 'binary')
  assert found.provenance == {'trained': 'no'}
  np.testing.assert_array_equal(
    found.params['codec']['center'], untrained.params['codec']['center']
  )
  text = ['What is the capital of Peru?']
  np.testing.assert_array_equal(
    found.tokenizer.questions(text), untrained.tokenizer.questions(text)
  )
  assert files.load(tmp_path).fingerprint == found.fingerprint
  values = json.loads((tmp_path / files.READER_FILE).read_text())
  values['config']['bert']['mlp_dim'] = 64
  (tmp_path / files.READER_FILE).write_text(json.dumps(values))
  with pytest.raises(ValueError, match='layers/wi/bias: found .* expected'):
    files.load(tmp_path)
  with pytest.raises(ValueError, match='is no span reader'):
    files.load(tmp_path / 'nowhere')


def test_what_cannot_be_answered_is_named(binary, passages):
  with pytest.raises(ValueError, match='1 questions and 2 lists'):
    binary.answer(['a'], passages[:2])
  with pytest.raises(ValueError, match="'why' has no passages"):
    binary.answer(['why'], [[]])
  assert binary.answer([], []) == []
