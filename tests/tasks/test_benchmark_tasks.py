"""The tasks of the public benchmarks, from files to batches and scores."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

seqio = pytest.importorskip('seqio')

NAMES = ('nq', 'triviaqa', 'webquestions', 'fever', 'mmlu', 'squad_open')
ALIASES = ['Lima', 'Oslo', 'Cairo', 'Accra']


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_vocabulary_file):
  """Twelve questions of each benchmark, with two passages each."""
  from btr_jax.data.benchmarks import task_files

  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path / 'data'))
  monkeypatch.setattr(task_files, '_USED', {})
  result = {}
  for name in NAMES:
    values = []
    for number in range(12):
      value = {'question': f'{name} {number}?', 'answers': ALIASES}
      if name == 'fever':
        value = {'claim': f'c {number}', 'label': 'REFUTES'}
      if name == 'mmlu':
        value = {
          'question': 'which is the capital of Peru? ' * 9,
          'choices': ALIASES,
          'answer': number % 4,
          'subject': 'anatomy',
        }
      value['id'] = f'{name}-{number}'
      value['ctxs'] = [
        {'title': 'Peru', 'text': f'Capital: {i}.'} for i in range(2)
      ]
      values.append(value)
    path = tmp_path / f'{name}.jsonl'
    path.write_text('\n'.join(json.dumps(value) for value in values))
    result[name] = task_files.TaskFiles(
      name,
      questions={'train': str(path), 'validation': str(path)},
      vocabulary=str(tiny_vocabulary_file),
    )
  task_files.use(*result.values())
  return result


def module(name):
  import importlib

  return importlib.import_module(f'btr_jax.tasks.{name}')


def limits():
  from btr_jax import config

  return config.InputLimits(
    question_length=40, passage_length=24, answer_length=8, num_passages=3
  )


def batches(name, split='train', batch_size=4, **options):
  from btr_jax.data import pipeline

  options = {'seed': 3, 'shuffle': split == 'train'} | options
  return pipeline.batches(name, split, limits(), batch_size, **options)


def answers_of(batch, vocabulary):
  from btr_jax.data import prompts

  return [
    prompts.parse_answer(vocabulary.decode(row))
    for row in batch['decoder_target_tokens']
  ]


def test_importing_a_module_registers_its_task():
  for name in NAMES:
    assert module(name).TASK.name == name
  assert module('mixture').MIXTURE.name == 'open_qa'


def test_answers_are_drawn_anew_in_training(files, tiny_vocabulary):
  module('nq')
  epochs = list(batches('nq', num_epochs=3))
  drawn = [answers_of(batch, tiny_vocabulary) for batch in epochs]
  assert len(drawn) == 9
  assert {answer for answers in drawn for answer in answers} == set(ALIASES)
  # The same question has another answer in another epoch.
  by_question = {}
  for batch, answers in zip(epochs, drawn, strict=True):
    for row, answer in zip(batch['question_tokens'], answers, strict=True):
      by_question.setdefault(row.tobytes(), set()).add(answer)
  assert any(len(found) > 1 for found in by_question.values())


@pytest.mark.parametrize('start', [1, 4])
@pytest.mark.parametrize('name', ['nq', 'open_qa'])
def test_sampled_answers_resume(files, name, start):
  module('mixture')
  endless = {'num_epochs': None}
  whole = list(itertools.islice(batches(name, **endless), start + 3))
  rest = itertools.islice(batches(name, start_step=start, **endless), 3)
  for expected, found in zip(whole[start:], rest, strict=True):
    for key in expected:
      np.testing.assert_array_equal(found[key], expected[key])


def test_evaluation_has_the_first_answer(files, tiny_vocabulary):
  module('nq')
  for batch in batches('nq', 'validation'):
    assert answers_of(batch, tiny_vocabulary) == [ALIASES[0]] * 4


@pytest.mark.parametrize('name', NAMES)
def test_examples_of_each(files, name, tiny_vocabulary):
  module(name)
  batch = next(iter(batches(name, 'validation')))
  question = tiny_vocabulary.decode(
    [token for token in batch['question_tokens'][0] if token]
  )
  (answer, *_) = answers_of(batch, tiny_vocabulary)
  assert question.startswith('question:')
  assert question.endswith('<extra_id_0>')
  assert batch['passage_tokens'][:, :2].any(axis=-1).all()
  assert not batch['passage_tokens'][:, 2:].any()
  if name == 'mmlu':
    # Cut from the left: the options stay.
    assert batch['question_tokens'][0].all()
    assert 'Accra' in question
    assert answer == 'A'
  if name == 'fever':
    assert answer == 'false'


@pytest.mark.parametrize('shards', [1, 2, 4])
def test_mixture_has_every_example_of_an_epoch_once(files, shards):
  module('mixture')
  task = seqio.get_mixture_or_task('open_qa')
  assert task.num_input_examples('train') == 36
  seen, steps = [], set()
  for index in range(shards):
    found = list(
      batches('open_qa', 'validation', 8, shard_index=index, num_shards=shards)
    )
    steps.add(len(found))
    seen += [
      row.tobytes()
      for batch in found
      for row in batch['question_tokens']
      if row.any()
    ]
  assert steps == {5}
  assert len(seen) == len(set(seen)) == 36


def test_mixture_mixes(files):
  """Not one task after the other, and the same for any number of shards."""
  module('mixture')

  def questions(**options):
    return [
      row.tobytes()
      for batch in batches('open_qa', batch_size=12, **options)
      for row in batch['question_tokens']
    ]

  whole = questions()
  halves = [questions(shard_index=index, num_shards=2) for index in range(2)]
  assert sorted(whole) == sorted(halves[0] + halves[1])
  assert set(whole[:12]) == set(halves[0][:6] + halves[1][:6])
  module('nq')
  first = {
    row.tobytes() for b in batches('nq', batch_size=12)
    for row in b['question_tokens']
  }  # fmt: skip
  assert 0 < len(first & set(whole[:12])) < 12


def test_evaluator_of_seqio_scores_by_the_tasks_metric(files):
  """As T5X does, with predictions that are partly right."""
  from btr_jax.data import feature_converters

  module('mmlu')
  vocabulary = (
    seqio.get_mixture_or_task('mmlu').output_features['targets'].vocabulary
  )
  evaluator = seqio.Evaluator(
    'mmlu',
    feature_converter=feature_converters.BtrFeatureConverter(pack=False),
    eval_split='validation',
    sequence_length={'inputs': 40, 'passages': (2, 24), 'targets': 8},
    log_dir=None,
  )

  def predict(dataset):
    return [
      (int(index), vocabulary.encode('<extra_id_0> B'))
      for index, _ in dataset.as_numpy_iterator()
    ]

  metrics, _ = evaluator.evaluate(
    compute_metrics=True, predict_fn=predict, score_fn=lambda *_: []
  )
  assert metrics.result()['mmlu'] == {
    'accuracy': 25.0,
    'accuracy_subject_mean': 25.0,
    'accuracy_other': 25.0,
  }


def test_source_of_training_knows_files_metric_and_answers(
  files, monkeypatch, tiny_vocabulary
):
  from btr_jax.data.benchmarks import task_files
  from btr_jax.training import scoring, sources

  monkeypatch.setattr(task_files, '_USED', {})
  source = sources.SeqioSource('nq', 'btr_jax.tasks.nq', files['nq'])
  assert isinstance(source, sources.BatchSource)
  assert source.vocabulary_file() == (files['nq'].vocabulary, 100)
  assert source.describe()['files']['nq']['questions'] == {
    'train': 'nq.jsonl',
    'validation': 'nq.jsonl',
  }
  metric, records = source.evaluation('validation')
  score = scoring.make_task_scorer(tiny_vocabulary, limits(), metric, records)
  batch = next(source.batches('validation', limits(), 4, seed=0))
  targets = batch['decoder_target_tokens']
  questions = batch['question_tokens']
  assert score(targets, targets, questions) == {'em': 100.0, 'f1': 100.0}
  # Another of the gold answers is as right as the target.
  said = np.zeros_like(targets)
  ids = tiny_vocabulary.encode('<extra_id_0> Cairo')
  said[:, : len(ids)] = ids
  order = [2, 0, 3, 1]  # rows of processes stand in an order of their own
  found = score(said, targets[order], questions[order])
  assert found == {'em': 100.0, 'f1': 100.0}
  with pytest.raises(ValueError, match='not among the records'):
    score(said, targets, questions[:, ::-1])


def test_source_of_a_mixture(files):
  from btr_jax.training import sources

  names = ('nq', 'triviaqa', 'webquestions')
  source = sources.SeqioSource(
    'open_qa', 'btr_jax.tasks.mixture', tuple(files[name] for name in names)
  )
  metric, records = source.evaluation('validation')
  assert metric.name == 'squad'
  assert len(list(records)) == 36
  paper = sources.SeqioSource('btr_paper', 'btr_jax.tasks.mixture')
  with pytest.raises(ValueError, match='fever, mmlu.*EVAL_BATCHES=0'):
    paper.evaluation('validation')
