"""tokenizer.json becomes a SentencePiece model with the same ids."""

import copy
import itertools
import json
import lzma

import hypothesis
from hypothesis import strategies
import pytest

from btr_jax.data import vocabulary
from btr_jax.interop import tokenizer_json
from btr_jax.interop.checkpoint import ConversionError

ODD = (
  '',
  '  a \t b\n',
  'ﬁ Ⅳ ½ ﷺ ＡＢＣ İı ſß',
  'e\u0301 \u00e9 \u00a0\u3000\u200b\u200d\ufeff',
  '日本語 नमस्ते مرحبا 👩‍👩‍👧 \U0010ffff',
  '\x00 a\x01',
  '<pad></s><unk><extra_id_0> <0x41>',
  '▁▁ ▁a',
  'a' * 3000,
)


def _read(values, source='tokenizer.json'):
  return tokenizer_json.read(json.dumps(values).encode(), source)


@pytest.fixture(scope='module')
def made(tmp_path_factory, tiny_tokenizer_json):
  model, extra_ids = _read(tiny_tokenizer_json)
  path = tmp_path_factory.mktemp('spiece') / 'spiece.model'
  path.write_bytes(model)
  return vocabulary.Vocabulary(path, extra_ids)


def test_sentinels_are_left_out(made, tiny_vocabulary):
  assert made.num_extra_ids == 100
  assert made.vocab_size == tiny_vocabulary.vocab_size
  every = range(made.vocab_size)
  assert made.pieces(every) == tiny_vocabulary.pieces(every)


def test_ids_of_passages_and_odd_texts(made, tiny_vocabulary, tiny_passages):
  texts = [*ODD, *(p.text for p in tiny_passages)]
  assert [*map(made.encode, texts)] == [*map(tiny_vocabulary.encode, texts)]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(strategies.text())
def test_ids_of_any_text(made, tiny_vocabulary, text):
  ids = made.encode(text)
  assert ids == tiny_vocabulary.encode(text)
  assert made.decode(ids) == tiny_vocabulary.decode(ids)


def test_bytes_are_those_of_the_protobuf_class(tiny_tokenizer_json):
  pytest.importorskip('google.protobuf')
  from sentencepiece import sentencepiece_model_pb2

  model, _ = _read(tiny_tokenizer_json)
  message = sentencepiece_model_pb2.ModelProto.FromString(model)
  assert message.SerializeToString() == model
  trainer = message.trainer_spec
  assert trainer.vocab_size == len(message.pieces) == 140
  ids = (trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id)
  assert ids == (0, 1, 2, -1)
  assert message.normalizer_spec.precompiled_charsmap


def test_sentinels_beside_the_model(tiny_tokenizer_json):
  """Other files have them among the added tokens alone."""
  values = copy.deepcopy(tiny_tokenizer_json)
  values['model']['vocab'] = values['model']['vocab'][:-100]
  values['added_tokens'].reverse()
  assert _read(values) == _read(tiny_tokenizer_json)


def test_special_pieces_of_other_names(tiny_tokenizer_json, tmp_path):
  values = copy.deepcopy(tiny_tokenizer_json)
  for number, name in enumerate(('[PAD]', '[END]', '[UNK]')):
    values['model']['vocab'][number][0] = name
    values['added_tokens'][number]['content'] = name
  (tmp_path / 'spiece.model').write_bytes(_read(values)[0])
  found = vocabulary.Vocabulary(tmp_path / 'spiece.model')
  assert found.pieces([0, 1, 2]) == ['[PAD]', '[END]', '[UNK]']


def _spoil(values, path, value):
  *path, last = path
  for key in path:
    values = values[key]
  values[last] = value


@pytest.mark.parametrize(
  ('path', 'value', 'told'),
  [
    (('model', 'type'), 'BPE', 'its model is BPE'),
    (('model', 'byte_fallback'), True, 'byte_fallback True'),
    (('model', 'unk_id'), 3, "['<pad>', '</s>', '<unk>'] of the types"),
    (('model', 'unk_id'), None, 'TypeError'),
    (('model', 'vocab', 5), ['#?', float('nan')], "such as '#?'"),
    (('model', 'vocab', 5), ['#?', 1e200], "such as '#?'"),
    (('model', 'vocab', 5), ['\ud800', 0.0], 'surrogates not allowed'),
    (('model', 'vocab', 5), ['', 0.0], "such as ''"),
    (('model', 'vocab', 5), ['</s>', 0.0], 'a piece twice'),
    (('model', 'vocab', 5), 7, 'TypeError'),
    (('model', 'vocab', 1), ['x', 0.0], "'</s>' has the id 1"),
    (('added_tokens', 0, 'id'), 999, "'<pad>' has the id 999"),
    (('added_tokens', 0, 'special'), False, 'of the types'),
    (('normalizer', 'normalizers', 0, 'type'), 'NFKC', "['NFKC', 'Replace']"),
    (('normalizer', 'normalizers', 1, 'content'), '', 'SentencePiece can'),
    (
      ('normalizer', 'normalizers', 0, 'precompiled_charsmap'),
      '!',
      'precompiled_charsmap',
    ),
    (('normalizer',), None, 'TypeError'),
    (('pre_tokenizer', 'prepend_scheme'), 'never', "prepend_scheme 'never'"),
    (('pre_tokenizer', 'type'), 'ByteLevel', "['ByteLevel']"),
  ],
)
def test_what_sentencepiece_cannot_follow(
  tiny_tokenizer_json, path, value, told
):
  values = copy.deepcopy(tiny_tokenizer_json)
  _spoil(values, path, value)
  with pytest.raises(ConversionError) as error:
    _read(values, 'some.json')
  assert told in str(error.value)
  assert 'Cannot read some.json' in str(error.value)


@pytest.mark.parametrize(
  'data',
  [b'', b'[]', b'{}', b'\xff', b'{"model": 1}', b'[' * 100_000],
)
def test_what_is_no_tokenizer(data):
  with pytest.raises(ConversionError, match='Expected the tokenizer.json'):
    tokenizer_json.read(data, 'some.json')


def test_the_real_tokenizer(shared_data, title_model, tmp_path):
  """Ids of T5's own SentencePiece model, on real passages and odd texts."""
  model, extra_ids = tokenizer_json.read(
    (title_model / 'tokenizer.json').read_bytes(), 'tokenizer.json'
  )
  (tmp_path / 'spiece.model').write_bytes(model)
  ours = vocabulary.Vocabulary(tmp_path / 'spiece.model', extra_ids)
  theirs = vocabulary.Vocabulary(
    shared_data / 'vocab' / 't5_spiece_32000.model'
  )
  assert ours.vocab_size == theirs.vocab_size == 32100
  every = range(32100)
  assert ours.pieces(every) == theirs.pieces(every)
  corpus = shared_data / 'passages' / 'corpus_w100' / 'psgs_w100.tsv.xz'
  with lzma.open(corpus, 'rt', encoding='utf-8') as file:
    texts = [*itertools.islice(file, 500), *ODD]
  assert ours.encode_many(texts) == theirs.encode_many(texts)
  reference = shared_data / 'reference' / 'flan_t5_small_float_reference.json'
  for case in json.loads(reference.read_text())['cases']:
    assert [*ours.encode(case['prompt']), 1] == case['input_ids']
