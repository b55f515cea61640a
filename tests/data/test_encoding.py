"""Token arrays: sides of the padding, truncation, batches."""

import dataclasses
import logging

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from btr_jax import config
from btr_jax.data import encoding, prompts, records
from btr_jax.data import vocabulary as vocabulary_lib


def test_questions_are_padded_on_the_left(tiny_vocabulary):
  tokens = encoding.encode_questions(tiny_vocabulary, ['What?', 'Who is?'], 40)
  assert tokens.shape == (2, 40)
  assert tokens.dtype == np.int32
  for row, question in zip(tokens, ['What?', 'Who is?'], strict=True):
    ids = tiny_vocabulary.encode(prompts.format_question(question))
    np.testing.assert_array_equal(row[-len(ids) :], ids)
    assert not row[: -len(ids)].any()
    assert row[-1] == tiny_vocabulary.extra_id(0)


def test_long_question_keeps_its_frame_and_its_end(tiny_vocabulary, caplog):
  question = 'so ' * 40 + 'what is the capital of Peru?'
  with caplog.at_level(logging.WARNING):
    row = encoding.encode_questions(tiny_vocabulary, [question], 32)[0]
  assert question in caplog.text
  assert 'question_length=32' in caplog.text
  frame = tiny_vocabulary.encode('question:')
  assert list(row[: len(frame)]) == frame
  full = tiny_vocabulary.encode(prompts.format_question(question))
  assert list(row[len(frame) :]) == full[-(32 - len(frame)) :]


def test_without_sentinels_question_and_answer_stand_alone(
  tiny_vocabulary_file,
):
  """Flan-T5 never saw sentinels: a vocabulary without them leaves them out."""
  known = vocabulary_lib.Vocabulary(tiny_vocabulary_file, 0)
  assert not known.has_sentinels
  ids = encoding.question_ids(known, 'Who is?', 40)
  assert known.decode(ids) == 'question: Who is? answer:'
  assert known.decode(encoding.answer_ids(known, 'Lima', 40)) == 'Lima'
  cut = encoding.question_ids(known, 'so ' * 40 + 'who?', 32)
  assert len(cut) == 32
  assert known.decode(cut).endswith('so who? answer:')


def test_question_length_too_short_for_any_question(tiny_vocabulary):
  with pytest.raises(ValueError, match='question_length is 4'):
    encoding.encode_questions(tiny_vocabulary, ['What is that thing?'], 4)


def test_empty_question_is_named(tiny_vocabulary):
  with pytest.raises(ValueError, match='Question 1 of 2 is empty'):
    encoding.encode_questions(tiny_vocabulary, ['What?', '  '], 32)


def test_passages_are_padded_on_the_right_and_end_with_eos(tiny_vocabulary):
  passages = [('Peru', 'Lima'), ('Chile', 'Santiago ' * 60)]
  tokens = encoding.encode_passages(tiny_vocabulary, passages, 48)
  ids = tiny_vocabulary.encode(prompts.format_passage('Peru', 'Lima'))
  np.testing.assert_array_equal(tokens[0, : len(ids) + 1], [*ids, 1])
  assert not tokens[0, len(ids) + 1 :].any()
  assert tokens[1, -1] == 1
  assert tokens[1].all()


def test_answers_start_with_the_sentinel(tiny_vocabulary):
  tokens = encoding.encode_answers(tiny_vocabulary, ['Lima', 'Lima ' * 30], 6)
  assert tokens[0, 0] == tiny_vocabulary.extra_id(0)
  assert prompts.parse_answer(tiny_vocabulary.decode(tokens[0])) == 'Lima'
  assert tokens[1, -1] == 1


@settings(max_examples=30, deadline=None)
@given(
  st.lists(
    st.tuples(st.text(max_size=20), st.text(max_size=80)),
    min_size=1,
    max_size=4,
  )
)
def test_any_text_gives_one_eos_and_padding_after_it(tiny_vocabulary, passages):
  tokens = encoding.encode_passages(tiny_vocabulary, passages, 24)
  for row in tokens:
    end = int(np.argmax(row == 1))
    assert row[end] == 1
    assert not row[end + 1 :].any()
    assert row[:end].all()


def test_batch_names_shapes_and_padding(
  tiny_vocabulary, tiny_records, tiny_limits
):
  group = list(tiny_records[:3])
  group[1] = dataclasses.replace(group[1], contexts=group[1].contexts[:1])
  batch = encoding.make_record_batch(tiny_vocabulary, group, tiny_limits)
  limits = tiny_limits
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    'question_tokens': ((3, limits.question_length), 'int32'),
    'passage_tokens': (
      (3, limits.num_passages, limits.passage_length),
      'int32',
    ),
    'decoder_target_tokens': ((3, limits.answer_length), 'int32'),
    'decoder_input_tokens': ((3, limits.answer_length), 'int32'),
    'decoder_loss_weights': ((3, limits.answer_length), 'float32'),
  }
  assert not batch['passage_tokens'][1, 1:].any()
  assert batch['passage_tokens'][0].any(-1).all()
  targets = batch['decoder_target_tokens']
  np.testing.assert_array_equal(
    batch['decoder_input_tokens'][:, 1:], targets[:, :-1]
  )
  assert not batch['decoder_input_tokens'][:, 0].any()
  np.testing.assert_array_equal(batch['decoder_loss_weights'], targets != 0)


def test_batch_without_answers_has_no_targets(tiny_vocabulary, tiny_limits):
  passages = [[records.Passage('1', 'Peru', 'Lima')]]
  batch = encoding.make_batch(tiny_vocabulary, ['What?'], passages, tiny_limits)
  assert set(batch) == {'question_tokens', 'passage_tokens'}


def test_more_passages_than_fit_are_left_out(tiny_vocabulary):
  limits = config.InputLimits(num_passages=2, passage_length=16)
  passages = [[records.Passage(str(i), 'T', f'{i}') for i in range(5)]]
  batch = encoding.make_batch(tiny_vocabulary, ['What?'], passages, limits)
  assert batch['passage_tokens'].shape == (1, 2, 16)


def test_batch_of_unequal_lists(tiny_vocabulary, tiny_limits):
  with pytest.raises(ValueError, match="'questions': 1, 'passages': 2"):
    encoding.make_batch(tiny_vocabulary, ['What?'], [[], []], tiny_limits)


def test_many_long_questions_are_told_of_by_the_first(
  tiny_vocabulary, monkeypatch, caplog
):
  monkeypatch.setattr(encoding, '_CUTS_TOLD', 2)
  for number in range(4):
    for _ in range(2):
      encoding.question_ids(tiny_vocabulary, f'who {number} ' * 20, 40)
  assert len(caplog.records) == 2
  assert 'who 0' in caplog.text and 'who 1' in caplog.text
  assert caplog.text.count('Further ones') == 1
