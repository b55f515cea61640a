"""Batches for training and evaluation, and the feature converter."""

import itertools

import numpy as np
import pytest

pytest.importorskip('seqio')


def batches(*arguments, **options):
  from btr_jax.data import pipeline

  return pipeline.batches(*arguments, **options)


def questions(batch):
  return [row.tobytes() for row in batch['question_tokens'] if row.any()]


def assert_same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_training_batches_are_reproducible_and_endless(tiny_task, tiny_limits):
  def first(seed):
    stream = batches(
      tiny_task,
      'train',
      tiny_limits,
      5,
      seed=seed,
      num_epochs=None,
      shuffle=True,
    )
    return list(itertools.islice(stream, 7))

  found = first(3)
  assert all(len(questions(batch)) == 5 for batch in found)
  assert_same(found, first(3))
  assert questions(found[0]) != questions(first(4)[0])


@pytest.mark.parametrize('start', [1, 2, 5])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(
  tiny_task, tiny_limits, start
):
  def stream(start_step):
    return batches(
      tiny_task,
      'train',
      tiny_limits,
      4,
      seed=0,
      num_epochs=None,
      shuffle=True,
      start_step=start_step,
    )

  whole = list(itertools.islice(stream(0), start + 3))
  assert_same(whole[start:], list(itertools.islice(stream(start), 3)))


def test_an_epoch_sees_each_question_once_in_another_order(
  tiny_task, tiny_limits
):
  found = list(
    batches(
      tiny_task, 'train', tiny_limits, 4, seed=0, num_epochs=2, shuffle=True
    )
  )
  assert len(found) == 6
  epochs = [
    [q for batch in half for q in questions(batch)]
    for half in (found[:3], found[3:])
  ]
  assert len(set(epochs[0])) == 12
  assert sorted(epochs[0]) == sorted(epochs[1])
  assert epochs[0] != epochs[1]


def test_partial_batch_is_dropped_in_training_and_padded_in_evaluation(
  tiny_task, tiny_limits
):
  training = list(
    batches(tiny_task, 'train', tiny_limits, 5, seed=0, shuffle=True)
  )
  assert [len(questions(batch)) for batch in training] == [5, 5]
  evaluation = list(batches(tiny_task, 'test', tiny_limits, 5, seed=0))
  assert [len(questions(batch)) for batch in evaluation] == [5, 5, 2]
  last = evaluation[-1]
  for value in last.values():
    assert len(value) == 5
    assert not value[2:].any()
  assert last['decoder_loss_weights'][:2].any()


def test_shards_share_each_epoch(tiny_task, tiny_limits):
  shards = [
    list(
      batches(
        tiny_task,
        'test',
        tiny_limits,
        10,
        seed=0,
        shard_index=index,
        num_shards=5,
      )
    )
    for index in range(5)
  ]
  # Twelve questions: three for the first two shards, two for the others; all
  # make the same number of steps.
  assert [len(shard) for shard in shards] == [2] * 5
  assert all(
    batch['question_tokens'].shape[0] == 2 for s in shards for batch in s
  )
  seen = [q for s in shards for batch in s for q in questions(batch)]
  assert len(seen) == len(set(seen)) == 12


@pytest.mark.parametrize('start_step', [0, 1, 4])
def test_any_number_of_shards_makes_the_same_training_steps(
  tiny_task, tiny_limits, start_step
):
  """Also in the middle of an epoch of three steps."""

  def steps(num_shards):
    shards = [
      itertools.islice(
        batches(
          tiny_task,
          'train',
          tiny_limits,
          4,
          seed=7,
          num_epochs=None,
          shuffle=True,
          shard_index=index,
          num_shards=num_shards,
          start_step=start_step,
        ),
        7 - start_step,
      )
      for index in range(num_shards)
    ]
    return [
      sorted(q for batch in step for q in questions(batch))
      for step in zip(*shards, strict=True)
    ]

  whole = steps(1)
  assert all(len(set(step)) == 4 for step in whole)
  assert steps(2) == whole
  assert steps(4) == whole


def test_passages_are_missing_as_zeros_and_cut(tiny_task):
  from btr_jax import config

  limits = config.InputLimits(
    question_length=20, passage_length=8, answer_length=3, num_passages=6
  )
  batch = next(batches(tiny_task, 'test', limits, 4, seed=0))
  assert batch['passage_tokens'].shape == (4, 6, 8)
  assert not batch['passage_tokens'][:, 4:].any()
  assert (batch['passage_tokens'][:, :4, -1] == 1).all()
  assert (batch['decoder_target_tokens'][:, -1] == 1).all()
  assert batch['question_tokens'].shape == (4, 20)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'batch_size': 5, 'num_shards': 2}, 'multiple of num_shards'),
    ({'batch_size': 4, 'num_shards': 2, 'shard_index': 2}, 'shard_index is 2'),
    ({'batch_size': 4, 'start_step': -1}, 'start_step is -1'),
  ],
)
def test_bad_sizes(tiny_task, tiny_limits, options, message):
  options = dict(options)
  size = options.pop('batch_size')
  with pytest.raises(ValueError, match=message):
    batches(tiny_task, 'test', tiny_limits, size, seed=0, **options)


def test_split_smaller_than_a_batch(tiny_task, tiny_limits):
  stream = batches(tiny_task, 'train', tiny_limits, 13, seed=0, shuffle=True)
  with pytest.raises(ValueError, match='12 examples, fewer than one batch'):
    next(stream)


def test_seeds_of_epochs_differ():
  from btr_jax.data import pipeline

  seeds = {pipeline.epoch_seed(s, e) for s in range(5) for e in range(5)}
  assert len(seeds) == 25
  assert all(0 <= seed < 2**31 for seed in seeds)


def test_converter_refuses_to_pack():
  from btr_jax.data import feature_converters

  with pytest.raises(ValueError, match='pack=True'):
    feature_converters.BtrFeatureConverter(pack=True)
  feature_converters.BtrFeatureConverter(
    pack=False, use_custom_packing_ops=False
  )


def test_converter_wants_a_pair_for_passages(tiny_task):
  import seqio

  from btr_jax.data import feature_converters

  lengths = {'inputs': 32, 'passages': (4, 16), 'targets': 8}
  dataset = seqio.get_mixture_or_task(tiny_task).get_dataset(lengths, 'test')
  converter = feature_converters.BtrFeatureConverter()
  with pytest.raises(ValueError, match='expected a pair'):
    converter(dataset, {**lengths, 'passages': 16})
  assert converter.get_model_feature_lengths(lengths) == {
    'question_tokens': 32,
    'passage_tokens': (4, 16),
    'decoder_target_tokens': 8,
    'decoder_input_tokens': 8,
    'decoder_loss_weights': 8,
  }
