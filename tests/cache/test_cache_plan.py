"""The plan: exact bytes, shards that do not move, a disk that suffices."""

from __future__ import annotations

import errno
import shutil

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from btr_jax.cache import builder
from btr_jax.cache import plan as planning
from btr_jax.cache.errors import CacheWriteError
from btr_jax.cache.layout import CacheLayout, choose_chunk_rows


def make_plan(lengths, **options):
  arguments = {
    'codec_kind': 'residual',
    'bits_bytes': 12,
    'scale_bytes': 2,
    'vocab_size': 4196,
    'max_length': 128,
  } | options
  return planning.plan(np.asarray(lengths), **arguments)


def test_the_planned_bytes_are_those_on_disk(tmp_path, corpus):
  plan = builder.make_plan(
    corpus.tokens_of,
    len(corpus.tokens),
    corpus.codec_layout,
    vocab_size=corpus.vocab_size,
    passages_per_shard=8,
  )
  corpus.build(tmp_path / 'cache')
  written = sum(
    file.stat().st_size for file in (tmp_path / 'cache').rglob('c.*')
  )
  assert written == plan.data_bytes
  assert plan.num_shards == 4
  assert plan.layout.num_tokens == corpus.lengths.sum()


@hypothesis.given(
  strategies.integers(1, 4096), strategies.sampled_from([64, 4096, 2**20])
)
def test_chunks_divide_shards_and_stay_small(row_bytes, rows):
  chunk = choose_chunk_rows(row_bytes, rows)
  assert chunk >= 64 and chunk & (chunk - 1) == 0
  assert chunk == 64 or chunk * row_bytes <= 16 * 1024


@hypothesis.given(
  bits_bytes=strategies.integers(1, 200),
  scale_bytes=strategies.integers(0, 4),
  per_shard=strategies.integers(1, 2048),
  vocab_size=strategies.sampled_from([100, 65536, 65537]),
)
def test_layouts_are_consistent_and_survive_json(
  bits_bytes, scale_bytes, per_shard, vocab_size
):
  layout = make_plan(
    [3, 128, 0],
    bits_bytes=bits_bytes,
    scale_bytes=scale_bytes,
    passages_per_shard=per_shard,
    vocab_size=vocab_size,
  ).layout
  assert CacheLayout.from_dict(layout.to_dict()) == layout
  assert layout.rows_per_shard >= per_shard * layout.max_length
  for array in layout.arrays:
    assert array.rows_per_shard % array.chunk_rows == 0
  assert (layout.array('scale') is None) == (scale_bytes == 0)
  wide = layout.array('token_ids').dtype
  assert wide == ('int32' if vocab_size > 65536 else 'uint16')


def test_a_longer_corpus_leaves_the_shards_where_they_are():
  short = make_plan([5, 7], passages_per_shard=64)
  long = make_plan(np.full(500, 128), passages_per_shard=64)
  assert short.layout.arrays == long.layout.arrays
  assert short.layout.rows_per_shard == long.layout.rows_per_shard


def test_overhead_of_padding_and_index_is_small_at_real_sizes():
  plan = make_plan(np.full(2048, 100), bits_bytes=96)
  payload = plan.layout.num_tokens * (96 + 2 + 2) + 2048 * 6
  assert payload < plan.data_bytes < 1.01 * payload


def test_shards_stay_few_for_large_corpora():
  assert planning.default_passages_per_shard(10_000) == 1024
  assert planning.default_passages_per_shard(2_000_000) == 4096
  assert planning.default_passages_per_shard(350_000_000) == 65536


@pytest.mark.parametrize(
  'lengths, options, message',
  [
    ([3, 129], {}, 'Passage 1 has 129 tokens; expected 0 to 128'),
    ([3, -1], {}, 'Passage 1 has -1 tokens'),
    ([1], {'bits_bytes': 0}, 'bits_bytes is 0'),
    ([1], {'scale_bytes': -1}, 'scale_bytes is -1'),
    ([1], {'max_length': 70000}, 'max_length is 70000'),
    ([1], {'passages_per_shard': 5000}, 'for example 5120'),
    ([1], {'passages_per_shard': 0}, 'passages_per_shard is 0'),
    (np.zeros(0, int), {}, 'no passages'),
  ],
)
def test_sizes_out_of_range_are_named(lengths, options, message):
  with pytest.raises(ValueError, match=message):
    make_plan(lengths, **options)


def test_a_disk_too_small_is_refused_before_anything_is_written(
  tmp_path, corpus, monkeypatch
):
  free = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda folder: free)
  with pytest.raises(CacheWriteError, match='has 1,000 free') as caught:
    corpus.build(tmp_path / 'new' / 'cache')
  assert caught.value.errno == errno.ENOSPC
  assert list(tmp_path.iterdir()) == []
