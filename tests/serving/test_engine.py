"""The engine: the same answers from a cache and without, whatever the batch."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from btr_jax import cache as cache_lib
from btr_jax import config as config_lib
from btr_jax.cache import builder
from btr_jax.data import encoding
from btr_jax.data.records import Record
from btr_jax.models import reader_files
from btr_jax.retrieval import bm25
from btr_jax.serving import engine as engine_lib

# The time of each part asks for programs of their own.
SPLIT = config_lib.EngineConfig(fused=False)


def load(family, mode, codec=None):
  return reader_files.load_reader(family, mode=mode, codec=codec)


def build_cache(path, reader, passages):
  def tokens_of(start, stop):
    texts = [(p.title, p.text) for p in passages[start:stop]]
    return encoding.encode_passages(
      reader.vocabulary, texts, reader.limits.passage_length
    )

  builder.build(
    path,
    tokens_of,
    len(passages),
    functools.partial(jax.jit(reader.model.encode_passages), reader.params),
    reader.model.codec_layout,
    {'model': 'm', 'codec': 'c', 'tokenizer': 't', 'corpus': 'k'},
    vocab_size=reader.vocabulary.vocab_size,
    batch_size=4,
  )
  return cache_lib.CacheStore.open(path)


@pytest.fixture(scope='module', params=['calibrated', 'residual', 'float'])
def cached(request, tmp_path_factory, tiny_family, tiny_passages):
  """A reader with its cache."""
  reader = load(tiny_family, 'binary', request.param)
  path = tmp_path_factory.mktemp('cache') / request.param
  return reader, build_cache(path, reader, tiny_passages)


def outputs(engine, records):
  """Decoded text is too coarse to compare an untrained reader by."""
  features = engine.features
  batch = features.batch(
    features.question_tokens([r.question for r in records]),
    [r.contexts[: engine.num_passages] for r in records],
  )
  encoded = engine._programs.run('encode', batch)
  states = np.asarray(encoded['states'])
  return np.where(np.asarray(encoded['mask'])[..., None], states, 0.0)


def test_cached_equals_recomputed(cached, tiny_passages, tiny_records):
  reader, cache = cached
  with_cache = engine_lib.Engine(
    reader, tiny_passages, cache=cache, mode='binary'
  )
  without = engine_lib.Engine(reader, mode='binary')
  records = tiny_records[:4]
  found, expected = outputs(with_cache, records), outputs(without, records)
  assert np.abs(expected).max() > 0.1
  # A state within rounding of a threshold may fall on its other side in a batch
  # of another shape, and changes its passage; bfloat16 has many thresholds.
  tolerance = 5e-3 if reader.config.codec.kind == 'float' else 1e-5
  assert np.isclose(found, expected, atol=tolerance).mean() > 0.9
  assert [a.text for a in with_cache.read(records)] == [
    a.text for a in without.read(records)
  ]


@pytest.mark.parametrize('mode', ['joint', 'decomposed', 'binary'])
def test_a_batch_answers_like_single_questions(mode, tiny_family, tiny_records):
  engine = engine_lib.Engine(load(tiny_family, mode), mode=mode)
  records = tiny_records[:3]
  together = engine.read(records)  # padded to four
  apart = [engine.read([record])[0] for record in records]
  assert [a.text for a in together] == [a.text for a in apart]
  assert [a.question for a in together] == [r.question for r in records]
  assert [p.id for p in together[0].passages] == [
    c.id for c in records[0].contexts
  ]


def test_shapes_compile_once(tiny_family, tiny_records):
  engine = engine_lib.Engine(
    load(tiny_family, 'joint'), mode='joint', config=SPLIT
  )
  assert engine.compile_seconds == 0.0
  answer = engine.read(tiny_records[:1])[0]
  spent = engine.compile_seconds
  assert spent > 0
  # Compilation is not in the timings.
  assert answer.timings.total < spent
  assert answer.timings.retrieve == 0.0
  assert answer.timings.look_up > 0 and answer.timings.decode > 0
  engine.read(tiny_records[:1])
  assert engine.compile_seconds == spent


@pytest.mark.parametrize(
  ('longest', 'expected'), [(0, 32), (1, 32), (32, 32), (33, 64), (65, 72)]
)
def test_lengths_are_rounded_up_to_the_limit(longest, expected, tiny_family):
  engine = engine_lib.Engine(load(tiny_family, 'joint'))
  assert engine.features.padded_length(longest) == expected


def test_buckets_are_a_choice(tiny_family, tiny_records):
  def lengths(buckets):
    config = config_lib.EngineConfig(length_buckets=buckets)
    engine = engine_lib.Engine(load(tiny_family, 'joint'), config=config)
    return engine.features.lengths

  assert lengths(None) == (32, 64, 72)
  assert lengths((20, 40)) == (20, 40, 72)
  assert lengths(()) == (72,)  # Padded to the maximum, as Atlas does.
  with pytest.raises(ValueError, match='at most the reader.s limit of 72'):
    lengths((20, 80))
  with pytest.raises(ValueError, match='expected ascending'):
    lengths((40, 20))


def test_fewer_passages_than_asked_for_are_padded(tiny_family, tiny_records):
  engine = engine_lib.Engine(load(tiny_family, 'joint'), num_passages=4)
  record = dataclasses.replace(
    tiny_records[0], contexts=tiny_records[0].contexts[:2]
  )
  alone = engine_lib.Engine(load(tiny_family, 'joint'), num_passages=2)
  padded, exact = outputs(engine, [record]), outputs(alone, [record])
  half = exact.shape[1]
  np.testing.assert_allclose(padded[:, :half], exact, atol=1e-5)
  assert not padded[:, half:].any()


def test_answer_retrieves(cached, tiny_passages):
  reader, cache = cached
  retriever = bm25.Bm25Retriever.build(tiny_passages)
  engine = engine_lib.Engine(
    reader, tiny_passages, retriever, cache, mode='binary', num_passages=3
  )
  answers = engine.answer(['What is the capital of Kenya?'])
  assert answers[0].passages[0].title.startswith('Kenya')
  assert answers[0].timings.retrieve > 0
  hits = retriever.search(['What is the capital of Kenya?'], 3)[0]
  assert [p.id for p in answers[0].passages] == [
    tiny_passages[hit.passage].id for hit in hits
  ]


def test_a_question_that_nothing_is_found_for(tiny_family, tiny_passages):
  retriever = bm25.Bm25Retriever.build(tiny_passages)
  engine = engine_lib.Engine(
    load(tiny_family, 'joint'), tiny_passages, retriever
  )
  with pytest.raises(ValueError, match="No passage was found .*'Xyzzy"):
    engine.answer(['Xyzzy qwert?'])


def test_a_long_question_loses_its_beginning(tiny_family, tiny_records, caplog):
  engine = engine_lib.Engine(load(tiny_family, 'joint'))
  record = tiny_records[0]
  long = dataclasses.replace(record, question='of ' * 40 + record.question)
  tokens = engine.features.question_tokens([long.question])
  assert 'of of of' in caplog.text
  caplog.clear()
  short = engine.features.question_tokens([record.question])
  assert not caplog.text
  assert tokens.shape == short.shape
  np.testing.assert_array_equal(tokens[0, -5:], short[0, -5:])


def test_refusals(cached, tiny_family, tiny_passages, tiny_records):
  reader, cache = cached
  joint = load(tiny_family, 'joint')
  with pytest.raises(ValueError, match="mode is 'fast'; expected one of"):
    engine_lib.Engine(joint, mode='fast')
  with pytest.raises(ValueError, match='only mode binary'):
    engine_lib.Engine(joint, tiny_passages, cache=cache, mode='joint')
  with pytest.raises(ValueError, match='holds 24 passages and the corpus 23'):
    engine_lib.Engine(reader, tiny_passages[1:], cache=cache, mode='binary')
  with pytest.raises(ValueError, match='num_passages is 0'):
    engine_lib.Engine(joint, num_passages=0)
  engine = engine_lib.Engine(joint)
  with pytest.raises(ValueError, match='no retriever'):
    engine.answer(['Who?'])
  with pytest.raises(ValueError, match='has no passages'):
    engine.read([Record('q', 'Who?', ())])
  with pytest.raises(ValueError, match='empty'):
    engine.read([dataclasses.replace(tiny_records[0], question='  ')])
  assert engine.read([]) == []


def test_a_passage_that_is_not_in_the_corpus(
  cached, tiny_passages, tiny_records
):
  reader, cache = cached
  engine = engine_lib.Engine(reader, tiny_passages, cache=cache, mode='binary')
  foreign = dataclasses.replace(tiny_records[0].contexts[0], id='x9')
  record = dataclasses.replace(tiny_records[0], contexts=(foreign,))
  with pytest.raises(ValueError, match="id 'x9'"):
    engine.read([record])


def test_one_program_or_two_say_the_same(tiny_family, tiny_records):
  reader = load(tiny_family, 'joint')
  fused = engine_lib.Engine(reader)
  split = engine_lib.Engine(reader, config=SPLIT)
  texts = [[a.text for a in e.read(tiny_records)] for e in (fused, split)]
  assert texts[0] == texts[1] and any(texts[0])


@pytest.mark.parametrize('fused', [True, False])
def test_warm_up_compiles_everything(
  tmp_path, tiny_family, tiny_passages, tiny_records, fused
):
  reader = load(tiny_family, 'binary', 'residual')
  cache = build_cache(tmp_path / 'cache', reader, tiny_passages)
  config = config_lib.EngineConfig(max_batch=2, fused=fused, length_buckets=())
  merging = config_lib.MergingConfig(0.2, 0.2)
  engine = engine_lib.Engine(
    reader,
    tiny_passages,
    cache=cache,
    mode='binary',
    inference=config_lib.InferenceConfig(merging=merging),
    config=config,
  )
  seconds = engine.warm_up()
  assert seconds > 0 and engine.compile_seconds == seconds
  engine.read(tiny_records[:1])
  engine.read(tiny_records[:2])
  assert engine.compile_seconds == seconds
  assert engine.warm_up([1]) == 0


def test_stream_keeps_the_order(tiny_family, tiny_records):
  engine = engine_lib.Engine(load(tiny_family, 'joint'))
  batches = [tiny_records[:4], [], tiny_records[4:8], tiny_records[8:]]
  found = [[a.text for a in answers] for answers in engine.stream(batches)]
  assert found == [[a.text for a in engine.read(batch)] for batch in batches]
  assert [len(answers) for answers in found] == [4, 0, 4, 4]
  bad = [dataclasses.replace(tiny_records[0], question=' ')]
  results = engine.stream([tiny_records[:4], bad])
  assert len(next(results)) == 4
  with pytest.raises(ValueError, match='empty'):
    next(results)


def test_bfloat16_is_the_reader_in_bfloat16(tiny_family, tiny_records):
  reader = load(tiny_family, 'joint')
  narrow = engine_lib.Engine(
    reader, config=config_lib.EngineConfig(dtype='bfloat16')
  )
  wide = engine_lib.Engine(reader)
  found = narrow._programs.run('encode', _batch_of(narrow, tiny_records[:2]))
  assert str(found['states'].dtype) == 'bfloat16'
  params = narrow._programs.params
  assert str(params['token_embedder']['embedding'].dtype) == 'bfloat16'
  norm = params['encoder']['encoder_norm']['scale']
  assert str(norm.dtype) == 'float32'
  expected = wide._programs.run('encode', _batch_of(wide, tiny_records[:2]))
  error = np.asarray(found['states'], np.float32) - expected['states']
  assert 0 < np.abs(error).mean() < 0.05 * np.abs(expected['states']).mean()
  # Casting the matrices beforehand changes nothing.
  uncast = jax.jit(narrow._programs.encode)(
    reader.params, _batch_of(narrow, tiny_records[:2])
  )
  np.testing.assert_array_equal(
    np.asarray(uncast['states'], np.float32),
    np.asarray(found['states'], np.float32),
  )


def _batch_of(engine, records):
  questions = engine.features.question_tokens([r.question for r in records])
  return engine.features.batch(questions, [r.contexts for r in records])


def test_the_next_process_need_not_compile(tmp_path, tiny_family, tiny_records):
  """The folder is the process's, so it is put back."""
  from jax.experimental.compilation_cache import compilation_cache

  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_min_entry_size_bytes',
  )
  before = {name: getattr(jax.config, name) for name in names}
  config = config_lib.EngineConfig(
    compilation_cache=str(tmp_path), length_buckets=(), max_batch=1
  )
  try:
    engine = engine_lib.Engine(load(tiny_family, 'joint'), config=config)
    engine.warm_up()
    kept = sorted(p.name for p in tmp_path.iterdir() if 'cache' in p.name)
    assert any('answer' in name for name in kept)
    again = engine_lib.Engine(load(tiny_family, 'joint'), config=config)
    again.warm_up()
    assert again.compile_seconds < 0.7 * engine.compile_seconds
    found = sorted(p.name for p in tmp_path.iterdir() if 'cache' in p.name)
    assert [n for n in found if 'answer' in n and 'atime' not in n] == [
      n for n in kept if 'answer' in n and 'atime' not in n
    ]
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
