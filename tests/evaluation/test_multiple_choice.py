"""Letters by logits: against the model under teacher forcing, and rotated."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.data import encoding, prompts
from btr_jax.data.records import Record
from btr_jax.evaluation import multiple_choice
from btr_jax.models import reader_files

CHOICES = ['Lima', 'Oslo', 'Cairo', 'Accra']


@pytest.fixture(scope='module')
def reader(letter_reader):
  return reader_files.load_reader(letter_reader)


@pytest.fixture(scope='module')
def letters(reader):
  return multiple_choice.Letters.of(reader.vocabulary)


@pytest.fixture(scope='module')
def questions(tiny_records):
  found = []
  for number, record in enumerate(tiny_records[:3]):
    choices = CHOICES[number:] + CHOICES[:number]
    found.append(
      dataclasses.replace(
        record,
        question=prompts.format_choices('Peru?', choices),
        answers=('A',),
        extra={'stem': 'Peru?', 'choices': choices, 'subject': 'anatomy'},
      )
    )
  return found


def test_letters_of_a_vocabulary(letters, reader):
  sentinel = reader.vocabulary.extra_id(0)
  assert letters.prefix[0] == sentinel
  assert len(set(letters.ids)) == 4
  for letter, token, target in zip(
    'ABCD', letters.ids, letters.targets, strict=True
  ):
    assert target[: len(letters.prefix)] == letters.prefix
    assert target[len(letters.prefix)] == token
    assert reader.vocabulary.decode(target).endswith(letter)


def test_a_vocabulary_without_the_letters_is_refused(tmp_path):
  from btr_jax.data import vocabulary

  class Blind(vocabulary.Vocabulary):
    has_sentinels = True

    def encode(self, text):
      return [self.unk_id] * len(text.split())

  blind = Blind.__new__(Blind)
  blind.path = 'blind.model'
  with pytest.raises(ValueError, match='letters A, B, C, D'):
    multiple_choice.Letters.of(blind)


def test_logits_are_those_of_teacher_forcing(reader, letters, questions):
  """The step of the letter, of the whole decoder run over a target."""
  batch = jax.tree.map(
    jnp.asarray,
    encoding.make_record_batch(reader.vocabulary, questions, reader.limits),
  )
  logits, encoded = reader.model.module.apply(
    {'params': reader.params},
    batch['question_tokens'],
    batch['passage_tokens'],
    batch['decoder_input_tokens'],
    'joint',
  )
  expected = logits[:, len(letters.prefix)][:, np.array(letters.ids)]
  found = multiple_choice.letter_logits(
    reader.model, reader.params, encoded, letters
  )
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert found.shape == (3, 4)
  assert np.std(found) > 0.01


@pytest.fixture(scope='module')
def engine(reader):
  return multiple_choice.LetterEngine(reader)


def test_engine_and_trainer_choose_the_same_letters(
  reader, letters, questions, engine
):
  batch = jax.tree.map(
    jnp.asarray,
    encoding.make_record_batch(reader.vocabulary, questions, reader.limits),
  )
  tokens = multiple_choice.predict_letters(
    reader.model, reader.params, batch, letters
  )
  assert tokens.shape == (3, reader.limits.answer_length)
  spelled = [
    prompts.parse_answer(reader.vocabulary.decode(row)) for row in tokens
  ]
  assert spelled == multiple_choice.predict(engine, questions, batch_size=2)


def test_rotating_moves_the_choices(questions):
  turned = multiple_choice.rotated(questions[0], 1)
  assert turned.question == (
    'Peru? options: (A) Accra (B) Lima (C) Oslo (D) Cairo'
  )
  assert multiple_choice.rotated(questions[0], 0).question == (
    questions[0].question
  )
  with pytest.raises(ValueError, match='holds no choices'):
    multiple_choice.rotated(Record('x', 'q', ('A',)), 1)


class Biased:
  """Likes the letter A, and a little the choice 'Cairo'."""

  def letter_logits(self, asked):
    result = np.zeros((len(asked), 4), np.float32)
    result[:, 0] = 3.0
    for row, record in enumerate(asked):
      for column, letter in enumerate('ABCD'):
        if f'({letter}) Cairo' in record.question:
          result[row, column] += 1.0
    return result


def test_cyclic_orders_take_a_liking_for_a_letter_away(questions):
  calls = []
  plain = multiple_choice.predict(Biased(), questions)
  cyclic = multiple_choice.predict(
    Biased(),
    questions,
    batch_size=2,
    cyclic=True,
    progress=lambda *call: calls.append(call),
  )
  assert plain == ['A', 'A', 'A']
  # 'Cairo' is third, second and first.
  assert cyclic == ['C', 'B', 'A']
  assert calls == [(2, 3), (3, 3)]


def test_cyclic_of_a_reader_is_the_mean_over_orders(engine, questions):
  found = multiple_choice.predict(engine, questions[:1], cyclic=True)
  shares = np.zeros(4)
  for shift in range(4):
    turned = multiple_choice.rotated(questions[0], shift)
    share = jax.nn.softmax(engine.letter_logits([turned]))[0]
    for choice in range(4):
      shares[choice] += share[(choice + shift) % 4]
  assert found == ['ABCD'[int(shares.argmax())]]
