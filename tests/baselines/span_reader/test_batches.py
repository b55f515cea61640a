"""Training batches: answers found, windows, and the same ones again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from btr_jax.baselines.span_reader import batches, examples

SHAPE = batches.BatchShape(
  questions=6, passages=4, passage_length=24, passages_per_question=2
)


def test_answers_are_found_as_words():
  assert batches.answer_places('us, because US us', 'us') == [(0, 2), (15, 17)]
  assert batches.answer_places('the Nile', 'the nile') == [(0, 8)]
  assert batches.answer_places('5 May (2001)', '(2001)') == [(6, 12)]
  assert batches.answer_places('because', 'us') == []
  assert batches.answer_places('anything', '') == []


def test_characters_become_tokens():
  places = [(0, 3), (4, 6), (6, 9), (10, 11)]
  spans = batches.token_spans(places, [(4, 9), (5, 6), (10, 11), (11, 12)])
  assert spans == [(1, 2), (1, 1), (3, 3)]


@pytest.fixture(scope='module')
def data(tiny_records, untrained):
  return batches.TrainingBatches(tiny_records, untrained.tokenizer, SHAPE)


def test_targets_are_the_answers(data, tiny_records, untrained):
  answers = {
    tuple(untrained.tokenizer.questions([r.question])[0]): r.answers[0]
    for r in tiny_records
  }
  seen = set()
  stream = data.from_step(0, seed=1)
  for _ in range(8):
    batch = next(stream)
    for row in np.flatnonzero(batch['weights']):
      answer = answers[tuple(batch['question_tokens'][row])]
      wanted = untrained.tokenizer.questions([answer])[0]
      wanted = wanted[wanted != 0][1:-1]
      (first,) = np.flatnonzero(batch['starts'][row, 0])
      (last,) = np.flatnonzero(batch['ends'][row, 0])
      own, other = batch['passage_of'][row]
      text = batch['passage_tokens'][own]
      np.testing.assert_array_equal(text[first : last + 1], wanted)
      assert own != other and not batch['starts'][row, 1].any()
      seen.add(answer)
  assert len(seen) == len(tiny_records)


def test_a_step_is_the_same_batch_again(data):
  whole = data.from_step(0, seed=0)
  skipped = data.from_step(5, seed=0)
  for _ in range(5):
    next(whole)
  for _ in range(3):
    left, right = next(whole), next(skipped)
    for name, value in left.items():
      np.testing.assert_array_equal(value, right[name])


def test_too_few_passages(tiny_records, untrained):
  with pytest.raises(ValueError, match='expected at least 4'):
    batches.TrainingBatches(tiny_records[:2], untrained.tokenizer, SHAPE)


def test_public_formats(tmp_path):
  squad = {
    'data': [
      {
        'title': f'Big_{name}',
        'paragraphs': [
          {
            'context': f'{name} is  big.',
            'qas': [
              {
                'id': f'{name}{n}',
                'question': 'Who is big?',
                'answers': [
                  {'text': text, 'answer_start': 0}
                  for text in (f'{name} is', name, name)
                ],
              }
              for n in range(2)
            ],
          }
        ],
      }
      for name in 'BA'
    ]
  }
  file = tmp_path / 'squad.json'
  file.write_text(json.dumps(squad))
  found = examples.read(file)
  assert [r.id for r in found] == ['B0', 'B1', 'A0', 'A1']
  assert found[0].answers == ('B', 'B is')  # by votes
  assert found[0].contexts[0].title == 'Big B'
  assert found[0].contexts[0].text == 'B is big.'
  train, others = examples.by_article(found, 1)
  assert [r.id for r in train] == ['A0', 'A1']
  assert [r.id for r in others] == ['B0', 'B1']
  with pytest.raises(ValueError, match='2 of 2 articles'):
    examples.by_article(found, 2)

  lines = [
    {'question': 'q', 'answers': ['a'], 'title': 't', 'context': 'a b'},
    {
      'question': 'q',
      'answers': ['a'],
      'ctxs': [{'title': 't', 'text': f'a {n}'} for n in range(4)],
    },
    {'question': 'q', 'answers': ['a']},
    {'question': 'q', 'answers': [], 'context': 'a b'},
  ]
  file = tmp_path / 'lines.jsonl'
  file.write_text('\n'.join(map(json.dumps, lines)))
  found = examples.read(file, num_passages=3)
  assert [len(r.contexts) for r in found] == [1, 3]
  file.write_text(json.dumps(lines[2]))
  with pytest.raises(ValueError, match='holds no question with answers'):
    examples.read(file)


def test_all_passages_are_one_batch(tiny_records, untrained, data):
  """Nothing comes behind the last piece, and the batch is full all the same."""
  shape = batches.BatchShape(
    questions=99, passages=data.num_passages, passage_length=40
  )
  whole = batches.TrainingBatches(tiny_records, untrained.tokenizer, shape)
  batch = next(whole.from_step(2, seed=0))
  assert np.count_nonzero(batch['weights']) == whole.num_questions


@pytest.mark.parametrize('length', [4, 6, 8, 12])
def test_answers_longer_than_a_window_are_left_out(
  tiny_records, untrained, data, length
):
  shape = batches.BatchShape(questions=1, passages=1, passage_length=length)
  try:
    found = batches.TrainingBatches(tiny_records, untrained.tokenizer, shape)
  except ValueError as error:
    assert 'expected at least 1' in str(error)  # None is short enough.
    return
  assert found.num_questions <= data.num_questions
  batch = next(found.from_step(0, seed=0))
  assert batch['starts'].any() and batch['ends'].any()


def test_data_of_equal_size_are_told_apart(tiny_records, untrained, data):
  again = batches.TrainingBatches(tiny_records, untrained.tokenizer, SHAPE)
  assert again.fingerprint == data.fingerprint
  other = [
    dataclasses.replace(record, question=f'{record.question}?')
    for record in tiny_records
  ]
  found = batches.TrainingBatches(other, untrained.tokenizer, SHAPE)
  assert found.num_questions == data.num_questions
  assert found.fingerprint != data.fingerprint
