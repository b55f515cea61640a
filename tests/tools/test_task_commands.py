"""`btr prepare-questions`, and `btr evaluate --task`."""

from __future__ import annotations

import json

import pytest

from btr_jax.data import prompts
from btr_jax.tools import common, evaluate, main, prepare_questions


def write(path, values):
  path.write_text('\n'.join(json.dumps(value) for value in values))
  return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path / 'data'))
  return tmp_path


def last_json(capsys):
  return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_prepare_questions_counts_and_names(folder, capsys):
  values = [
    {'question': 'a?', 'answers': ['x'], 'ctxs': [{'text': 'p'}]},
    {'question': 'b?', 'answers': []},
    {'question': 'c?', 'answers': ['y']},
  ]
  path = write(folder / 'q.jsonl', values)
  out = folder / 'out.jsonl'
  argv = ['--task', 'nq', '--questions', path, '--output', str(out)]
  assert common.run(prepare_questions.main, argv) == 0
  shown = capsys.readouterr()
  record = json.loads(shown.out.strip().splitlines()[-1])
  assert (record['questions'], record['with_passages']) == (2, 1)
  assert record['problems'][0]['places']['empty answer'] == ['line 2']
  assert 'empty answer (left out)' in shown.out
  assert 'line 2' in shown.err
  assert len(out.read_text().splitlines()) == 2


def test_prepare_questions_draws_windows(folder, capsys):
  passages = [
    {'text': 'the capital is Lima ' + 'and so on ' * 20, 'has_answer': True},
    {'text': 'nothing of it ' * 20, 'has_answer': False},
  ]
  values = [
    {'question': 'a?', 'answers': ['Lima'], 'ctxs': passages},
    {'question': 'b?', 'answers': ['Quito'], 'ctxs': passages[1:]},
  ]
  path = write(folder / 'q.jsonl', values)
  out = folder / 'out.jsonl'
  argv = ['--task', 'nq', '--questions', path, '--output', str(out)]
  argv += ['--windows', '9']
  assert common.run(prepare_questions.main, argv) == 0
  assert last_json(capsys)['kept'] == 1
  (drawn,) = map(json.loads, out.read_text().splitlines())
  assert [len(c['text'].split()) for c in drawn['ctxs']] == [9, 9]
  path = write(folder / 'unjudged.jsonl', [values[1]])
  argv[3] = path
  assert common.run(prepare_questions.main, argv) == 2
  assert 'none of 1 questions' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--task', 'nq', '--questions', 'no.jsonl'], 'natural-questions'),
    (['--task', 'mmlu', '--questions', 'no'], 'hendrycks/test'),
    (['--task', 'fever'], 'needs --questions.*claim'),
    (['--task', 'nq', '--questions', 'bad', '--strict'], 'line 1: .*JSON'),
  ],
)
def test_bad_input_is_one_message(folder, capsys, arguments, message):
  (folder / 'bad.jsonl').write_text('{"question"\n')
  arguments = [
    str(folder / 'bad.jsonl') if a == 'bad' else a for a in arguments
  ]
  argv = [*arguments, '--output', str(folder / 'out.jsonl')]
  assert main.main(['prepare-questions', *argv]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and 'Traceback' not in error
  import re

  assert re.search(message, error)
  assert not (folder / 'out.jsonl').exists()


@pytest.fixture
def mmlu_file(folder, tiny_records):
  values = []
  for number, record in enumerate(tiny_records[:4]):
    contexts = [{'title': c.title, 'text': c.text} for c in record.contexts]
    values.append(
      {
        'question': 'Peru?',
        'choices': ['Lima', 'Oslo', 'Cairo', 'Accra'],
        'answer': number,
        'subject': ('anatomy', 'astronomy')[number % 2],
        'ctxs': contexts if number else [],
      }
    )
  return write(folder / 'mmlu.jsonl', values)


def test_evaluate_mmlu_by_letters(mmlu_file, letter_reader, capsys):
  argv = [
    *('--task', 'mmlu', '--questions', mmlu_file, '--limit', 'all'),
    *('--reader', str(letter_reader), '--mode', 'joint', '--repeats', '0'),
    *('--batch', '2', '--permutations', 'cyclic'),
  ]
  assert common.run(evaluate.main, argv) == 0
  shown = capsys.readouterr()
  record = json.loads(shown.out.strip().splitlines()[-1])
  (row,) = record['modes']
  assert record['task'] == 'mmlu' and record['permutations'] == 'cyclic'
  assert row['accuracy']['mean'] in (0.0, 25.0, 50.0, 75.0)
  assert set(row) >= {'accuracy_stem', 'accuracy_other'}
  assert record['recall'] == {}
  assert record['questions']['questions'] == 4
  assert 'stem' in shown.out and 'EM' not in shown.out
  assert 'question without passages' in shown.err


def test_evaluate_open_questions(folder, tiny_records, tiny_family, capsys):
  values = [
    {
      'question': record.question,
      'answer': [*record.answers, 'other'],
      'ctxs': [{'title': c.title, 'text': c.text} for c in record.contexts],
    }
    for record in tiny_records[:4]
  ]
  path = write(folder / 'q.jsonl', values)
  argv = [
    *('--task', 'triviaqa', '--questions', path, '--limit', 'all'),
    *('--reader', str(tiny_family), '--mode', 'joint', '--repeats', '1'),
    *('--speed-questions', '2'),
  ]
  assert common.run(evaluate.main, argv) == 0
  record = last_json(capsys)
  assert record['metrics'] == ['em', 'f1', 'em_triviaqa', 'f1_triviaqa']
  assert set(record['metrics']) <= set(record['modes'][0])
  assert record['modes'][0]['speed']['questions_per_second']['median'] > 0
  assert record['retrieval']['seconds_per_question'] is None
  assert record['recall']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--permutations', 'cyclic'], 'expected --task mmlu'),
    (['--task', 'mmlu'], 'needs --questions'),
    (['--task', 'mmlu', '--questions', 'FILE'], 'give --corpus'),
  ],
)
def test_evaluate_refuses(mmlu_file, tiny_family, capsys, arguments, message):
  arguments = [mmlu_file if a == 'FILE' else a for a in arguments]
  argv = ['--reader', str(tiny_family), *arguments]
  assert common.run(evaluate.main, argv) == 2
  assert message in capsys.readouterr().err


def test_choices_are_formatted_as_in_atlas():
  assert prompts.format_choices('q?', list('wxyz')) == (
    'q? options: (A) w (B) x (C) y (D) z'
  )
  with pytest.raises(ValueError):
    prompts.format_choices('q?', list('xyz'))


def test_benchmark_data(folder, tiny_records, tiny_vocabulary_file, capsys):
  pytest.importorskip('seqio')
  from btr_jax.tools import benchmark_data

  values = [
    {
      'question': record.question,
      'answers': list(record.answers),
      'ctxs': [{'title': c.title, 'text': c.text} for c in record.contexts],
    }
    for record in tiny_records
  ]
  path = write(folder / 'q.jsonl', values)
  argv = [
    *('--task', 'nq', '--questions', path, '--num-passages', '6'),
    *('--vocabulary', str(tiny_vocabulary_file), '--tflop-per-example', '100'),
    *('--batch', '4', '--steps', '2', '--repeats', '2'),
    *('--output', str(folder / 'record.json')),
  ]
  assert common.run(benchmark_data.main, argv) == 0
  record = last_json(capsys)
  assert record == json.loads((folder / 'record.json').read_text())
  assert record['limits']['num_passages'] == 6
  assert record['questions'] == 12
  rate = record['examples_per_second']
  assert 0 < rate['smallest'] <= rate['median'] <= rate['largest']
  assert record['bound']['most_examples_per_second'] == 9.89
  assert record['bound']['pipeline_over_bound'] == rate['median'] / 9.89


@pytest.mark.parametrize('value', ['0', '-1', 'much', 'nan'])
def test_benchmark_data_wants_a_number(value):
  from btr_jax.tools import benchmark_data

  with pytest.raises(SystemExit):
    benchmark_data.make_parser().parse_args(
      ['--task', 'nq', '--vocabulary', 'v', '--tflop-per-example', value]
    )
