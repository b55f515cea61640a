"""The vocabulary against SentencePiece's own reading of the same file."""

import hashlib
import shutil

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from btr_jax.data import vocabulary as vocabulary_lib


def test_special_ids_and_size(tiny_vocabulary):
  assert tiny_vocabulary.vocab_size == 240
  assert tiny_vocabulary.pad_id == 0
  assert tiny_vocabulary.eos_id == 1
  assert tiny_vocabulary.unk_id == 2
  assert tiny_vocabulary.extra_id(0) == 239
  assert tiny_vocabulary.extra_id(99) == 140


def test_sentinels_equal_those_appended_by_protobuf(tiny_vocabulary_file):
  """The hand-written bytes are what the protobuf library writes."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    tiny_vocabulary_file.read_bytes()
  )
  for index in reversed(range(100)):
    proto.pieces.add(
      piece=f'▁<extra_id_{index}>',
      score=0.0,
      type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED,
    )
  expected = sentencepiece.SentencePieceProcessor()
  expected.LoadFromSerializedProto(proto.SerializeToString())
  found = vocabulary_lib.Vocabulary(tiny_vocabulary_file)
  assert found.vocab_size == expected.GetPieceSize()
  ids = list(range(found.vocab_size))
  assert found.pieces(ids) == [expected.IdToPiece(i) for i in ids]
  text = 'question: What is the capital of Peru? answer: <extra_id_0>'
  assert found.encode(text) == expected.EncodeAsIds(text)


def test_sentinel_is_one_token(tiny_vocabulary):
  ids = tiny_vocabulary.encode('<extra_id_0> Lima <extra_id_7>')
  assert ids[0] == tiny_vocabulary.extra_id(0)
  assert ids[-1] == tiny_vocabulary.extra_id(7)


@pytest.mark.parametrize('count', [0, 3, 200])
def test_many_texts_are_encoded_as_each_alone(tiny_vocabulary, count):
  texts = [f'Place {n} is <extra_id_0> Peru {n * 7}' for n in range(count)]
  texts[1:2] = ['']
  expected = [tiny_vocabulary.encode(text) for text in texts]
  assert tiny_vocabulary.encode_many(texts) == expected


def test_decode_inverts_encode_and_stops_at_eos(tiny_vocabulary):
  ids = tiny_vocabulary.encode('the capital of Peru')
  assert tiny_vocabulary.decode(ids) == 'the capital of Peru'
  assert tiny_vocabulary.decode([*ids, 1, *ids]) == 'the capital of Peru'
  assert tiny_vocabulary.decode([0, *ids, 0, 0]) == 'the capital of Peru'


def test_decode_reads_ids_out_of_range_as_unknown(tiny_vocabulary):
  unknown = tiny_vocabulary.decode([2])
  assert tiny_vocabulary.decode([10**6]) == unknown
  assert tiny_vocabulary.decode([-5]) == unknown


def test_no_such_sentinel(tiny_vocabulary):
  with pytest.raises(ValueError, match='extra_id_100'):
    tiny_vocabulary.extra_id(100)


def test_fingerprint_tells_file_and_sentinels(tiny_vocabulary_file, tmp_path):
  first = vocabulary_lib.Vocabulary(tiny_vocabulary_file)
  copy = tmp_path / 'copy.model'
  shutil.copy(tiny_vocabulary_file, copy)
  assert vocabulary_lib.Vocabulary(copy).fingerprint == first.fingerprint
  fewer = vocabulary_lib.Vocabulary(copy, extra_ids=10)
  assert fewer.fingerprint != first.fingerprint
  other = tmp_path / 'other.model'
  vocabulary_lib.train_vocabulary(['some other words'] * 9, other, 98)
  assert vocabulary_lib.Vocabulary(other).fingerprint != first.fingerprint


def test_training_is_deterministic(tmp_path):
  texts = [f'the number {i} is not {i + 1}' for i in range(300)]
  digests = set()
  for name in ('a', 'b'):
    path = tmp_path / name
    vocabulary_lib.train_vocabulary(texts, path, vocab_size=128)
    digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
  assert len(digests) == 1


def test_every_ascii_character_has_a_piece(tiny_vocabulary):
  text = ''.join(map(chr, range(0x21, 0x7F)))
  assert 2 not in tiny_vocabulary.encode(text)


def test_too_many_pieces(tmp_path):
  path = tmp_path / 'v.model'
  with pytest.raises(ValueError, match='9999 pieces'):
    vocabulary_lib.train_vocabulary(['few words'], path, vocab_size=9999)
  assert not path.exists()


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='SentencePiece'):
    vocabulary_lib.Vocabulary(tmp_path / 'nowhere.model')


def test_file_that_is_no_model(tmp_path):
  path = tmp_path / 'broken.model'
  path.write_bytes(b'this is no model')
  with pytest.raises(ValueError, match='not a SentencePiece model'):
    vocabulary_lib.Vocabulary(path)


def test_model_with_other_special_ids(tmp_path):
  path = tmp_path / 'other.model'
  with open(path, 'wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['some words to learn'] * 20),
      model_writer=file,
      vocab_size=30,
      hard_vocab_limit=False,
      minloglevel=2,
    )
  with pytest.raises(ValueError, match='pad, eos and unk are'):
    vocabulary_lib.Vocabulary(path)
