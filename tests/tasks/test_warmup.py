"""The copying exercises: windows, continuations, and whom they leave alone."""

import random

import pytest
import seqio
import tensorflow as tf

from btr_jax.tasks import warmup

WORDS = (
  'Area - total: 180 sq km; land: 180 sq km. Coastline: 68.5 km. '
  'Climate: tropical marine with little seasonal variation.'
).split()


@pytest.fixture
def draw():
  return random.Random(0).randrange


def test_continuation_follows_its_cue_in_the_text(draw):
  for _ in range(200):
    question, answer, text = warmup.continuation('Aruba', WORDS, 12, draw)
    cue = question.removeprefix('Aruba ')
    assert f'{cue} {answer}' in text
    assert text in ' '.join(WORDS)
    assert 1 <= len(answer.split()) <= 8
    assert len(text.split()) <= 14


def test_continuation_of_two_words(draw):
  question, answer, text = warmup.continuation('T', ['a', 'b'], 12, draw)
  assert (question.split()[-1], answer, text) == ('a', 'b', 'a b')


def test_windows_hold_what_they_must(draw):
  for low in range(len(WORDS)):
    high = min(low + 3, len(WORDS))
    text = warmup.around(WORDS, low, high, 6, draw)
    assert ' '.join(WORDS[low:high]) in text
    assert len(text.split()) <= 6


@pytest.mark.parametrize(
  'wanted, start',
  [('68.5 km', 11), ('180 sq km', 3), ('tropical marine', 14), ('69 km', None)],
)
def test_find(wanted, start):
  assert warmup.find(WORDS, wanted.split()) == start


def _examples(training):
  return {
    'question': tf.constant(['How long is the coastline of Aruba?'] * 40),
    'answers': tf.constant([['68.5 km', '68.5']] * 40),
    'titles': tf.constant([['Peru', 'Aruba: Geography']] * 40),
    'texts': tf.constant([['Coastline: 2,414 km.', ' '.join(WORDS)]] * 40),
    'has_answer': tf.constant([[False, True]] * 40),
    'training': tf.constant([training] * 40),
  }


def _rewritten(training, **options):
  dataset = tf.data.Dataset.from_tensor_slices(_examples(training))
  with seqio.map_seed_manager(initial_seed=7):
    return list(warmup.warm_up(dataset, **options).as_numpy_iterator())


def test_training_examples_become_short_and_stay_answerable():
  examples = _rewritten(True, share=0.5)
  asked = [e['question'] == _examples(True)['question'][0] for e in examples]
  assert 8 < sum(bool(a) for a in asked) < 32
  for example in examples:
    answer, text = example['answers'][0], example['texts'][1]
    assert answer in text
    assert len(text.split()) < len(WORDS)


def test_the_same_seed_gives_the_same_examples():
  first, second = _rewritten(True), _rewritten(True)
  for a, b in zip(first, second, strict=True):
    assert a['question'] == b['question']
    assert list(a['texts']) == list(b['texts'])


def test_evaluation_examples_stay_as_they_are():
  for example in _rewritten(False):
    assert example['question'] == b'How long is the coastline of Aruba?'
    assert example['texts'][1].decode() == ' '.join(WORDS)
