"""Changed training examples: still answerable, and not from memory."""

import random

import pytest
import seqio
import tensorflow as tf

from btr_jax.tasks import augmentation, randomness

TEXT = (
  'Area - total: 268,838 sq km; land: 264,537 sq km. Climate: temperate. '
  'Coastline: 15,134 km.'
)


@pytest.fixture
def draw():
  return random.Random(0).randrange


def test_digits_are_exchanged_one_to_one(draw):
  tables = [augmentation.digit_table(draw) for _ in range(20)]
  for table in tables:
    assert sorted('123456789'.translate(table)) == list('123456789')
    assert '0.0'.translate(table) == '0.0'
  assert len({'123456789'.translate(table) for table in tables}) > 10


def test_statements_change_places_and_none_is_lost(draw):
  orders = {augmentation.shuffle_statements(TEXT, draw) for _ in range(50)}
  assert len(orders) == 6
  for text in orders:
    assert sorted(text.split()) == sorted(TEXT.split())
    assert 'Area - total: 268,838 sq km; land: 264,537 sq km.' in text


def test_subjects_get_names_of_the_passages(draw):
  titles = ['Guinea: Economy', 'Guinea-Bissau: Economy', 'Guinea: People', '']
  texts = ['The river Niger, near Bamako and Conakry', 'Bissau; Fouta Djallon']
  words = {'Niger', 'Bamako', 'Conakry', 'Bissau', 'Fouta', 'Djallon'}
  shared = 0
  for _ in range(200):
    names = augmentation.name_table(titles, texts, draw)
    assert set(names) <= {'Guinea', 'Guinea-Bissau'}
    assert len(set(names.values())) == len(names)
    for name in names.values():
      assert 1 <= len(name.split()) <= 3 and set(name.split()) <= words
    if len(names) == 2:
      first, second = (set(name.split()) for name in names.values())
      shared += bool(first & second)
  assert 30 < shared < 120
  assert augmentation.name_table(titles, ['no name in here'], draw) == {}


def test_renaming_takes_the_longest_name_and_whole_words():
  names = {'Guinea': 'Bamako', 'Guinea-Bissau': 'Niger Fouta'}
  text = 'Is Guinea-Bissau larger than Guinea, where Guineans live?'
  assert augmentation.rename(text, names) == (
    'Is Niger Fouta larger than Bamako, where Guineans live?'
  )
  assert augmentation.rename(text, {}) == text


def test_generator_is_even_and_repeats():
  draw, again = (randomness.generator((3, 4)) for _ in range(2))
  drawn = [draw(10) for _ in range(5000)]
  assert [again(10) for _ in range(5000)] == drawn
  counts = [drawn.count(value) for value in range(10)]
  assert 400 < min(counts) and max(counts) < 600
  assert [randomness.generator((3, 5))(1000) for _ in range(3)] != drawn[:3]


def _examples(training):
  return {
    'question': tf.constant(['How large was Aruba in 2019?'] * 40),
    'answers': tf.constant([['268,838 sq km', '268,838']] * 40),
    'titles': tf.constant([['Peru', 'Aruba: Geography']] * 40),
    'texts': tf.constant([['Founded in 2019.', TEXT]] * 40),
    'has_answer': tf.constant([[False, True]] * 40),
    'training': tf.constant([training] * 40),
  }


def _rewritten(training, **options):
  dataset = tf.data.Dataset.from_tensor_slices(_examples(training))
  with seqio.map_seed_manager(initial_seed=7):
    return list(augmentation.augment(dataset, **options).as_numpy_iterator())


def test_training_examples_stay_answerable():
  examples = _rewritten(True, digits_share=0.5)
  unchanged = 0
  for example in examples:
    assert example['answers'][0] in example['texts'][1]
    year = example['question'].decode().split()[-1].rstrip('?')
    assert example['texts'][0].decode() == f'Founded in {year}.'
    unchanged += year == '2019'
  assert 8 < unchanged < 32
  assert len({example['texts'][1] for example in examples}) > 20


def test_question_and_title_get_the_same_name():
  renamed = 0
  for example in _rewritten(True, digits_share=0.0, order_share=0.0):
    title = example['titles'][1].decode()
    subject, kind = title.split(': ')
    assert kind == 'Geography'
    question = example['question'].decode()
    assert question == f'How large was {subject} in 2019?'
    renamed += subject != 'Aruba'
  assert 8 < renamed < 32
  for example in _rewritten(True, names_share=0.0):
    assert example['titles'][1] == b'Aruba: Geography'


def test_evaluation_examples_are_left_alone():
  expected = _examples(False)
  for example in _rewritten(False):
    assert example['question'] == expected['question'][0]
    for name in ('titles', 'texts'):
      assert list(example[name]) == list(expected[name][0].numpy())
