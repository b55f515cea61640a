"""Choosing passages and answers, and the ids that come out."""

import numpy as np
import pytest

tf = pytest.importorskip('tensorflow')
seqio = pytest.importorskip('seqio')


def example(has_answer, training=True, answers=('a', 'b', 'c')):
  number = len(has_answer)
  return {
    'id': 'q',
    'question': 'What?',
    'answers': list(answers),
    'titles': [f't{i}' for i in range(number)],
    'texts': [f'x{i}' for i in range(number)],
    'has_answer': list(has_answer),
    'training': training,
  }


def run(function, item, copies=1, seed=0, **options):
  from btr_jax.tasks import sources

  dataset = tf.data.Dataset.from_generator(
    lambda: iter([item] * copies), output_signature=sources.SIGNATURE
  )
  with seqio.map_seed_manager(seed):
    return list(function(dataset, **options).as_numpy_iterator())


def chosen(has_answer, training=True, limit=3, copies=1, seed=0, **options):
  from btr_jax.tasks import preprocessors

  found = run(
    preprocessors.choose_passages,
    example(has_answer, training),
    copies,
    seed,
    sequence_length={'passages': (limit, 8)},
    **options,
  )
  return [[int(text[1:]) for text in item['texts']] for item in found]


def test_first_passages_are_kept():
  assert chosen([1, 0, 0, 0], shuffle_passages=False) == [[0, 1, 2]]
  assert chosen([1, 0], shuffle_passages=False) == [[0, 1]]
  assert chosen([], shuffle_passages=False) == [[]]


def test_gold_passage_replaces_the_last_one_in_training_only():
  judged = [0, 0, 0, 0, 1, 1]
  assert chosen(judged, shuffle_passages=False) == [[0, 1, 4]]
  assert chosen(judged, training=False) == [[0, 1, 2]]
  assert chosen(judged, shuffle_passages=False, ensure_gold=False) == [
    [0, 1, 2]
  ]
  assert chosen([0] * 6, shuffle_passages=False) == [[0, 1, 2]]
  assert chosen(judged, limit=1, shuffle_passages=False) == [[4]]


def test_passages_are_shuffled_in_training_only_and_by_seed():
  judged = [1, 0, 0, 0, 0, 0]
  orders = chosen(judged, limit=6, copies=8)
  assert all(sorted(order) == list(range(6)) for order in orders)
  assert len({tuple(order) for order in orders}) > 4
  assert orders == chosen(judged, limit=6, copies=8)
  assert orders != chosen(judged, limit=6, copies=8, seed=5)
  assert chosen(judged, training=False, limit=6) == [list(range(6))]


def test_judgements_follow_their_passages():
  from btr_jax.tasks import preprocessors

  (found,) = run(
    preprocessors.choose_passages,
    example([0, 0, 0, 0, 1]),
    sequence_length={'passages': (4, 8)},
  )
  where = list(found['texts']).index(b'x4')
  assert list(found['titles']).index(b't4') == where
  assert list(np.flatnonzero(found['has_answer'])) == [where]


def test_number_of_passages_without_lengths():
  from btr_jax.tasks import preprocessors

  item = example([1, 0, 0, 0], training=False)
  (all_of_them,) = run(
    preprocessors.choose_passages, item, sequence_length=None
  )
  assert len(all_of_them['texts']) == 4
  (two,) = run(
    preprocessors.choose_passages, item, sequence_length=None, num_passages=2
  )
  assert len(two['texts']) == 2


def answers_of(**options):
  from btr_jax.tasks import preprocessors

  training = options.pop('training', True)
  answers = options.pop('answers', ('a', 'b', 'c'))
  found = run(
    preprocessors.choose_answer,
    example([1], training, answers),
    copies=24,
    **options,
  )
  return {item['answer'].decode() for item in found}


def test_answers():
  assert answers_of() == {'a'}
  assert answers_of(sample=True) == {'a', 'b', 'c'}
  assert answers_of(sample=True, training=False) == {'a'}
  assert answers_of(answers=()) == {''}


def test_ids_are_those_of_encoding(
  tiny_task, tiny_files, tiny_vocabulary, tiny_limits
):
  from btr_jax.data import encoding, pipeline, records

  found = list(pipeline.batches(tiny_task, 'test', tiny_limits, 4, seed=0))
  group = records.read_records(tiny_files / 'test.jsonl')
  expected = encoding.make_record_batch(tiny_vocabulary, group, tiny_limits)
  assert set(found[0]) == set(expected)
  for name, value in expected.items():
    together = np.concatenate([batch[name] for batch in found])
    assert together.dtype == value.dtype
    np.testing.assert_array_equal(together, value)


def test_task_without_lengths_cuts_nothing(tiny_task, tiny_vocabulary):
  task = seqio.get_mixture_or_task(tiny_task)
  first = next(
    task.get_dataset(None, 'test', shuffle=False).as_numpy_iterator()
  )
  assert first['passages'].shape[0] == 4
  assert first['targets'][-1] == 1
  assert tiny_vocabulary.decode(first['targets']) == '<extra_id_0> Lima'
  assert (first['passages'] == 1).sum() == 4


@pytest.mark.parametrize('passages', [8, (8,), (1, 2, 3)])
def test_length_of_passages_must_be_a_pair(passages):
  from btr_jax.tasks import preprocessors

  with pytest.raises(ValueError, match='expected a pair'):
    preprocessors.lengths({'passages': passages})


def test_lengths():
  from btr_jax.tasks import preprocessors

  given = {'inputs': 32, 'passages': (8, 128), 'targets': 16}
  assert preprocessors.lengths(given) == (32, 128, 8, 16)
  assert preprocessors.lengths(None) == (None, None, None, None)
