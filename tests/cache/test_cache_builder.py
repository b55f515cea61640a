"""The builder: few shapes, real rows only, progress, honest refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.cache import builder, shard_encoder
from btr_jax.cache.store import CacheStore


def test_buckets_end_with_the_passage_length():
  assert shard_encoder.length_buckets(128) == (32, 64, 96, 128)
  assert shard_encoder.length_buckets(40) == (32, 40)
  assert shard_encoder.length_buckets(16) == (16,)


def test_batches_have_few_shapes_and_little_padding(tmp_path, corpus_maker):
  corpus = corpus_maker(num_passages=60, length=70)
  batches = []

  def encode(tokens):
    batches.append(tokens)
    return corpus.encode(tokens)

  corpus.build(tmp_path / 'cache', encode_fn=encode, passages_per_shard=30)
  assert {batch.dtype for batch in batches} == {np.dtype(np.int32)}
  assert {batch.shape for batch in batches} <= {(4, 32), (4, 64), (4, 70)}
  # Two shards of 30 passages in batches of 4.
  assert len(batches) == 16
  longest = [(batch != 0).sum(axis=1).max() for batch in batches]
  assert longest[:8] == sorted(longest[:8])
  for batch, length in zip(batches, longest, strict=True):
    assert batch.shape[1] == min(
      bucket for bucket in (32, 64, 70) if bucket >= length
    )


def test_results_may_be_jax_arrays(tmp_path, corpus):
  @jax.jit
  def encode(tokens):
    bits = jnp.repeat(tokens[..., None], 6, axis=-1).astype(jnp.uint8)
    return {'bits': bits, 'scale': bits[..., :2] + jnp.uint8(1)}

  corpus.build(tmp_path / 'cache', encode_fn=encode)
  found = CacheStore.open(tmp_path / 'cache').lookup(np.arange(27), 40)
  real = corpus.tokens != 0
  low = corpus.tokens.astype(np.uint8)
  np.testing.assert_array_equal(found.bits[..., 5], low)
  np.testing.assert_array_equal(found.scale[..., 1], (low + 1) * real)


def test_batch_size_and_shards_do_not_change_what_is_looked_up(
  tmp_path, corpus
):
  found = []
  for number, options in enumerate(
    [
      {'batch_size': 1, 'passages_per_shard': 3},
      {'batch_size': 64, 'passages_per_shard': None},
    ]
  ):
    path = tmp_path / str(number)
    corpus.build(path, **options)
    found.append(CacheStore.open(path).lookup(np.arange(27), 40))
  np.testing.assert_array_equal(found[0].bits, found[1].bits)
  np.testing.assert_array_equal(found[0].scale, found[1].scale)
  np.testing.assert_array_equal(found[0].bits, corpus.expected()['bits'])


def test_progress_counts_every_passage_once(tmp_path, corpus):
  calls = []
  corpus.build(tmp_path / 'cache', progress=lambda *done: calls.append(done))
  done = [call[0] for call in calls]
  assert {call[1] for call in calls} == {27}
  assert done[0] == 0 and done[-1] == 27
  assert done == sorted(set(done))
  calls.clear()
  corpus.build(tmp_path / 'cache', progress=lambda *done: calls.append(done))
  assert calls == [(27, 27)]


def test_the_corpus_is_fingerprinted_by_its_tokens(tmp_path, corpus_maker):
  first = corpus_maker(num_passages=5)
  second = corpus_maker(num_passages=5)
  second.tokens[2, 0] += 1
  prints = [
    corpus.build(tmp_path / name).fingerprints['corpus']
    for name, corpus in (('a', first), ('b', first), ('c', second))
  ]
  assert prints[0] == prints[1] != prints[2]
  assert len(prints[0]) == 64


def test_a_given_corpus_fingerprint_stays(tmp_path, corpus):
  fingerprints = {
    'model': 'm',
    'codec': 'c',
    'tokenizer': 't',
    'corpus': 'wiki',
  }
  manifest = corpus.build(tmp_path / 'cache', fingerprints=fingerprints)
  assert manifest.fingerprints == fingerprints


def test_a_cache_must_say_whose_it_is(tmp_path, corpus):
  with pytest.raises(ValueError, match=r"lack \['model', 'tokenizer'\]"):
    corpus.build(tmp_path / 'cache', fingerprints={'codec': 'c'})
  assert list(tmp_path.iterdir()) == []


def test_padding_inside_a_passage_is_refused(tmp_path, corpus_maker):
  corpus = corpus_maker(num_passages=9)
  corpus.tokens[2, 7] = 0
  with pytest.raises(ValueError, match='Passage 2 has padding'):
    corpus.build(tmp_path / 'cache')


def test_a_corpus_that_changes_is_refused(tmp_path, corpus_maker, monkeypatch):
  corpus = corpus_maker(num_passages=9)
  calls = []

  def tokens_of(self, start, stop):
    calls.append(start)
    tokens = self.tokens[start:stop].copy()
    if len(calls) > 1:
      tokens[2, 20:] = 0
    return tokens

  monkeypatch.setattr(type(corpus), 'tokens_of', tokens_of)
  with pytest.raises(ValueError, match='0 to 7 have other lengths'):
    corpus.build(tmp_path / 'cache')


@pytest.mark.parametrize(
  'wrong, message',
  [
    (lambda r: r | {'bits': r['bits'][..., :5]}, r'bits as uint8 \(4, .*5\)'),
    (lambda r: r | {'scale': r['scale'] * 1.0}, 'scale as float64'),
  ],
)
def test_results_of_the_wrong_shape_are_refused(
  tmp_path, corpus, wrong, message
):
  with pytest.raises(ValueError, match=message):
    corpus.build(
      tmp_path / 'cache', encode_fn=lambda tokens: wrong(corpus.encode(tokens))
    )


def test_tokens_of_the_wrong_shape_are_refused(tmp_path, corpus, monkeypatch):
  monkeypatch.setattr(
    type(corpus), 'tokens_of', lambda self, start, stop: self.tokens[:3]
  )
  with pytest.raises(ValueError, match=r'\(0, 27\) returned int32 \(3, 40\)'):
    corpus.build(tmp_path / 'cache')


def test_an_empty_corpus_and_batch_are_refused(tmp_path, corpus):
  with pytest.raises(ValueError, match='batch_size is 0'):
    corpus.build(tmp_path / 'cache', batch_size=0)
  with pytest.raises(ValueError, match='num_passages is 0'):
    builder.make_plan(corpus.tokens_of, 0, corpus.codec_layout, vocab_size=100)
