"""`btr prepare-batches`: a task's examples, and codes, as arrays."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.data import prompts, records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.models import reader_files
from btr_jax.tools import common, prepare_batches
from btr_jax.training import sources

LIMITS = config_lib.InputLimits(32, 20, 6, 2)
SIZES = [
  *('--question-length', '32', '--passage-length', '20'),
  *('--answer-length', '6', '--num-passages', '2'),
]


@pytest.fixture
def prepare(tiny_task, tmp_path):
  """Runs the command on the tiny task; gives its exit code."""

  def run(split, *arguments):
    argv = ['--task', tiny_task, '--task-module', 'btr_jax.tasks.preprocessors']
    argv += ['--split', split, '--output', str(tmp_path / 'arrays')]
    return common.run(prepare_batches.main, [*argv, *SIZES, *arguments])

  return run


def test_arrays_are_the_tasks_examples(prepare, tiny_task, tmp_path, capsys):
  assert prepare('train', '--examples', '70', '--seed', '3') == 0
  record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
  assert record['examples'] == 70 and record['codes'] is None
  source = sources.SeqioSource(tiny_task)
  direct = list(
    itertools.islice(source.batches('train', LIMITS, 1, seed=3), 70)
  )
  with np.load(tmp_path / 'arrays' / 'train.npz') as arrays:
    assert set(arrays) == set(direct[0])
    for name in arrays:
      expected = np.concatenate([batch[name] for batch in direct])
      np.testing.assert_array_equal(arrays[name], expected)
  prepared = sources.NpzSource(str(tmp_path / 'arrays'))
  batch = next(prepared.batches('train', LIMITS, 8, seed=0))
  assert batch['passage_tokens'].shape == (8, 2, 20)
  assert source.vocabulary_file()[1] == prepared.vocabulary_file()[1]


def test_codes_are_the_readers(prepare, tiny_family, tmp_path, capsys):
  reader = reader_files.load_reader(tiny_family, mode='binary')
  assert prepare('test', '--examples', '9', '--reader', str(tiny_family)) == 0
  folder = tmp_path / 'arrays'
  with np.load(folder / 'test.npz') as arrays:
    arrays = dict(arrays)
  tokens = arrays['passage_tokens']
  packed = reader.model.encode_passages(reader.params, tokens.reshape(-1, 20))
  real = tokens.reshape(-1, 20) != 0
  for name, expected in packed.items():
    found = arrays[f'passage_{name}']
    found = found.reshape(real.shape + found.shape[-1:])
    np.testing.assert_array_equal(found[real], np.asarray(expected)[real])
  described = sources.NpzSource(str(folder)).describe()
  assert described['codes'] == reader.fingerprint
  capsys.readouterr()
  assert prepare('train', '--examples', '9') == 2
  assert 'already holds test.npz' in capsys.readouterr().err
  assert not (folder / 'train.npz').exists()


def test_bad_input(prepare, capsys):
  assert prepare('train', '--examples', '9', '--codec', 'residual') == 2
  assert '--codec needs --reader' in capsys.readouterr().err


def test_questions_of_a_file_without_sentinels(
  tiny_files, tiny_vocabulary_file, tmp_path, monkeypatch, capsys
):
  """A public set's file, for a reader that never saw sentinels."""
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path / 'data'))
  argv = ['--task', 'nq', '--split', 'validation', '--examples', '5', *SIZES]
  argv += ['--questions', str(tiny_files / 'test.jsonl')]
  argv += ['--vocabulary', str(tiny_vocabulary_file), '--extra-ids', '0']
  argv += ['--output', str(tmp_path / 'arrays')]
  assert common.run(prepare_batches.main, argv) == 0
  record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
  assert record['examples'] == 5 and record['extra_ids'] == 0
  known = vocabulary_lib.Vocabulary(tiny_vocabulary_file, 0)
  with np.load(tmp_path / 'arrays' / 'validation.npz') as arrays:
    ids = [token for token in arrays['question_tokens'][0] if token]
    target = arrays['decoder_target_tokens'][0]
  asked = next(iter(records.iterate_records(tiny_files / 'test.jsonl')))
  assert known.decode(ids) == prompts.format_question(asked.question, False)
  assert known.decode(target) == asked.answers[0]


def test_questions_belong_to_the_public_sets(prepare, capsys):
  assert prepare('train', '--examples', '2', '--questions', 'q.jsonl') == 2
  assert '--questions has no meaning for --task' in capsys.readouterr().err


def test_other_vocabularies_are_refused(
  prepare, tiny_family, tiny_passages, tmp_path, capsys
):
  folder = tmp_path / 'arrays'
  folder.mkdir()
  other = folder / 'vocabulary.model'
  texts = [passage.text for passage in tiny_passages]
  vocabulary_lib.train_vocabulary(texts, other, 110)
  written = other.read_bytes()
  assert prepare('train', '--examples', '9') == 2
  assert 'has another vocabulary (210 ids)' in capsys.readouterr().err
  assert other.read_bytes() == written and not list(folder.glob('*.npz'))
  # A reader's: Factbook's ids mean nothing to it.
  reader = tmp_path / 'reader'
  shutil.copytree(tiny_family / 'residual', reader)
  described = json.loads((reader / 'reader.json').read_text())
  (reader / 'vocabulary.model').write_bytes(written)
  described |= {'vocabulary': 'vocabulary.model'}
  (reader / 'reader.json').write_text(json.dumps(described))
  other.unlink()
  assert prepare('train', '--examples', '9', '--reader', str(reader)) == 2
  assert 'the reader has another vocabulary' in capsys.readouterr().err
