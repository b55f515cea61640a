"""Batches from prepared files: order, shares, padding, errors."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.training import sources

LIMITS = config_lib.InputLimits(
  question_length=1, passage_length=1, answer_length=1, num_passages=1
)


def write(folder, split, count, **changes):
  numbers = np.arange(count, dtype=np.int32)
  arrays = {
    'question_tokens': numbers[:, None],
    'passage_tokens': numbers[:, None, None],
    'decoder_input_tokens': numbers[:, None],
    'decoder_target_tokens': numbers[:, None] + 1,
    'decoder_loss_weights': np.ones((count, 1), np.float32),
    **changes,
  }
  np.savez(folder / f'{split}.npz', **arrays)
  return sources.NpzSource(str(folder))


def questions(batches, steps=None):
  return [
    batch['question_tokens'][:, 0].tolist()
    for batch in itertools.islice(batches, steps)
  ]


def test_training_sees_every_example_once_per_epoch(tmp_path):
  source = write(tmp_path, 'train', 10)
  seen = questions(source.batches('train', LIMITS, 3, seed=1), 6)
  assert all(len(batch) == 3 for batch in seen)
  first, second = sum(seen[:3], []), sum(seen[3:], [])
  assert len(set(first)) == len(set(second)) == 9
  assert first != second


def test_training_resumes_anywhere(tmp_path):
  source = write(tmp_path, 'train', 10)
  whole = questions(source.batches('train', LIMITS, 3, seed=1), 8)
  for start in (1, 3, 7):
    resumed = questions(
      source.batches('train', LIMITS, 3, seed=1, start_step=start), 8 - start
    )
    assert resumed == whole[start:]
  assert questions(source.batches('train', LIMITS, 3, seed=2), 8) != whole


def test_validation_is_read_once_and_padded(tmp_path):
  source = write(tmp_path, 'validation', 5)
  batches = list(source.batches('validation', LIMITS, 3, seed=0))
  assert questions(iter(batches)) == [[0, 1, 2], [3, 4, 0]]
  assert batches[1]['decoder_loss_weights'][:, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize('start_step', [0, 2, 5])
def test_processes_share_each_batch(tmp_path, start_step):
  """Also from the middle of an epoch of four steps."""
  source = write(tmp_path, 'train', 16)
  whole = questions(source.batches('train', LIMITS, 4, seed=3), 9)
  shares = [
    questions(
      source.batches(
        'train',
        LIMITS,
        4,
        seed=3,
        start_step=start_step,
        shard_index=index,
        num_shards=2,
      ),
      9 - start_step,
    )
    for index in (0, 1)
  ]
  joined = [a + b for a, b in zip(*shares, strict=True)]
  assert joined == whole[start_step:]


def test_processes_share_validation(tmp_path):
  source = write(tmp_path, 'validation', 5)
  shares = [
    list(
      source.batches(
        'validation', LIMITS, 4, seed=0, shard_index=index, num_shards=2
      )
    )
    for index in (0, 1)
  ]
  # All make the same number of steps; the last ones are padding.
  assert questions(shares[0]) == [[0, 1], [4, 0]]
  assert questions(shares[1]) == [[2, 3], [0, 0]]
  weights = [batch['decoder_loss_weights'].sum() for s in shares for batch in s]
  assert weights == [2, 1, 2, 0]


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'question_tokens': np.zeros((4, 2), np.int32)},
      r'has shapes .* expected .*\(1,\)',
    ),
    (
      {'question_tokens': np.zeros((3, 1), np.int32)},
      'different numbers of examples',
    ),
  ],
)
def test_bad_arrays(tmp_path, changes, message):
  source = write(tmp_path, 'train', 4, **changes)
  with pytest.raises(ValueError, match=message):
    source.batches('train', LIMITS, 2, seed=0)


def test_too_few_examples_and_no_file(tmp_path):
  source = write(tmp_path, 'train', 4)
  with pytest.raises(ValueError, match='4 examples; .* BATCH_SIZE=8'):
    source.batches('train', LIMITS, 8, seed=0)
  with pytest.raises(ValueError, match='Cannot read .*validation.npz'):
    source.batches('validation', LIMITS, 2, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # TensorFlow's, while it is imported.
def test_missing_task_and_module_are_named():
  pytest.importorskip('seqio')
  source = sources.SeqioSource('factbook', 'btr_jax.tasks.nowhere')
  with pytest.raises(ValueError, match="registers .* 'btr_jax.tasks.nowhere'"):
    source.vocabulary_file()
  source = sources.SeqioSource('fackbook', 'btr_jax.tasks.factbook')
  with pytest.raises(
    ValueError, match="TASK is 'fackbook'; expected one of .*'factbook'"
  ):
    source.vocabulary_file()


def test_missing_seqio_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'btr_jax.data.pipeline', None)
  monkeypatch.delattr('btr_jax.data.pipeline', raising=False)
  with pytest.raises(ValueError, match=r'pip install btr_jax\[train\]'):
    sources.SeqioSource('factbook').vocabulary_file()


def test_descriptions_are_json(tmp_path):
  for source in (sources.NpzSource(str(tmp_path)), sources.SeqioSource('nq')):
    assert isinstance(source, sources.BatchSource)
    assert json.loads(json.dumps(source.describe())) == source.describe()
