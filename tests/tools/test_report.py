"""`btr report`: rows, resuming, refusals; on engines that only pretend."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time

import pytest
import safetensors.numpy

from btr_jax import cache as cache_lib
from btr_jax.data import records
from btr_jax.evaluation.study import settings
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import (
  report_family,
  report_rows,
  report_sources,
  report_task,
)

# How many of the twelve questions each system gets right.
RIGHT = {'joint': 12, 'binary-residual': 9}


@dataclasses.dataclass(frozen=True)
class FakeAnswer:
  text: str
  timings: engine_lib.Timings = engine_lib.Timings(0.0, 0.0, 0.0, 1e-4)


class FakeEngine:
  """Knows the answers to the first questions."""

  compile_seconds = 0.0

  def __init__(self, right, seconds=0.0):
    self._right = right
    self._seconds = seconds

  def read(self, asked):
    time.sleep(self._seconds)
    return [
      FakeAnswer(r.answers[0] if int(r.id[1:]) < self._right else 'no idea')
      for r in asked
    ]


@pytest.fixture
def started(monkeypatch):
  """Engines that pretend in place of the family's; lists those started."""
  log = []

  def start(self, setting):
    del self
    log.append(setting.slug)
    size = 0.0 if setting.system == 'joint' else 13.0
    return report_rows.Running(
      FakeEngine(RIGHT.get(setting.system, 6)),
      4_000_000,
      size,
      {'bits': size / 2} if size else None,
    )

  monkeypatch.setattr(report_family.FamilySource, 'start', start)
  return log


def quick(family, output, *more):
  return ('report', '--reader', family, '--quick', '--output', output, *more)


def rows_of(page, label):
  """Cells of the lines of a page that begin with a label."""
  return [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in page.splitlines()
    if line.startswith(f'| {label} |')
  ]


def test_all_tables_then_nothing_is_left_to_run(
  last_json, btr, started, tiny_family, tmp_path
):
  output, published = tmp_path / 'out', tmp_path / 'docs' / 'results'
  argv = quick(tiny_family, output, '--publish', published)
  record = last_json(*argv)
  slugs = [p.stem for p in (output / 'factbook' / 'rows').glob('*.json')]
  assert record['rows'] == {
    'run': len(slugs),
    'kept': 0,
    # 4 and 8 bits, phrases, language model, two span readers.
    'not_run': 6,
    'failed': 0,
  }
  assert len(started) == len(set(started)) == len(slugs) > 15
  main = {row['label']: row for row in record['main']}
  assert main['joint (Atlas, FiD)']['score']['value'] == 100.0
  assert main['binary, residual codec']['kept']['value'] == 75.0
  assert main['span reader, binary (BTR-BERT)']['status'] == 'not run'

  page = (published / 'report.md').read_text()
  assert page == (output / 'report.md').read_text().replace(
    '`docs/report.md`', '[docs/report.md](../report.md)'
  )
  pictures = re.findall(r'\]\((report_factbook_\w+\.png)\)', page)
  assert len(pictures) == 4
  for name in pictures:
    assert (published / name).read_bytes().startswith(b'\x89PNG')
  assert not (published / 'factbook').exists()  # no rows, no answers
  for name in settings.TABLES:
    assert f'--quick --tables {name}\n' in page
  assert str(tmp_path) not in page
  (full,) = rows_of(page, 'BTR in full')
  assert full[1].startswith('75.0 [') and full[2].startswith('0.0')
  assert full[-4:] == ['49.5', '0.0', '31.5', '127']
  saved = json.loads((published / 'report.json').read_text())
  assert [task['task'] for task in saved['tasks']] == ['factbook']

  row = json.loads((output / 'factbook' / 'rows' / 'joint_p4.json').read_text())
  assert row['by_question'] == [100.0] * 12 and row['questions'] == 12
  assert row['answers'][0] == {'id': 'q0', 'answer': 'Lima'}
  assert row['speed']['questions_per_second']['median'] > 0
  assert row['environment']['cpu'] and row['model_bytes'] == 4_000_000

  del started[:]
  again = last_json(*argv)
  assert not started and again['rows']['run'] == 0
  assert again['rows']['kept'] == len(slugs)
  assert again['main'] == record['main']


def test_another_reader_runs_its_rows_again(
  last_json, started, tiny_family, tmp_path
):
  family = tmp_path / 'family'
  shutil.copytree(tiny_family, family)
  argv = quick(family, tmp_path / 'out', '--tables', 'offline')
  ran = last_json(*argv)['rows']['run']
  assert ran == 4  # joint, as built, two ratios
  weights = family / 'residual' / 'model.safetensors'
  # What stands above the split, and so in no cache's fingerprint, as well.
  changed = {
    name: value + 0.5 if name.startswith('decoder/') else value
    for name, value in safetensors.numpy.load_file(weights).items()
  }
  safetensors.numpy.save_file(changed, weights)
  del started[:]
  counts = last_json(*argv)['rows']
  assert counts == {'run': 3, 'kept': 1, 'not_run': 0, 'failed': 0}
  assert 'joint_p4' not in started


def test_a_stopped_run_goes_on_row_by_row(
  btr, last_json, started, monkeypatch, tiny_family, tmp_path
):
  argv = quick(tiny_family, tmp_path, '--tables', 'runtime')
  start = report_family.FamilySource.start

  def stop_at_the_third(self, setting):
    if len(started) == 2:
      raise KeyboardInterrupt
    return start(self, setting)

  monkeypatch.setattr(report_family.FamilySource, 'start', stop_at_the_third)
  code, _, err = btr(*argv)
  assert code == 130 and 'interrupted' in err
  done = sorted(p.stem for p in (tmp_path / 'factbook' / 'rows').iterdir())
  assert done == sorted(started) and len(done) == 2
  assert (
    'not reached; the same command goes on'
    in (tmp_path / 'report.md').read_text()
  )

  monkeypatch.setattr(report_family.FamilySource, 'start', start)
  counts = last_json(*argv)['rows']
  # The joint reader is started again, for the others' speed-ups.
  after = set(started[2:]) - {'joint_p4'}
  assert not after & set(done)
  assert counts['kept'] == 2 and counts['run'] == len(after) > 0


def test_a_row_that_fails_costs_that_row(
  btr, last_json, started, monkeypatch, tiny_family, tmp_path
):
  argv = quick(
    *(tiny_family, tmp_path, '--tables', 'main'),
    *('--systems', 'joint,decomposed,binary-residual'),
  )
  start = report_family.FamilySource.start

  def full_disk(self, setting):
    if setting.system == 'decomposed':
      raise OSError('no space left')
    return start(self, setting)

  monkeypatch.setattr(report_family.FamilySource, 'start', full_disk)
  code, out, err = btr(*argv)
  assert code == 1 and 'failed: OSError: no space left' in err
  assert json.loads(out.splitlines()[-1])['rows']['failed'] == 1
  page = (tmp_path / 'report.md').read_text()
  (row,) = rows_of(page, 'decomposed, recomputed')
  assert row[1] == 'failed' and 'OSError: no space left' in page
  assert 'left out by --tables or --systems' in page

  monkeypatch.setattr(report_family.FamilySource, 'start', start)
  counts = last_json(*argv)['rows']
  assert counts['run'] == 1 and counts['failed'] == 0


def test_a_slow_row_is_not_run(last_json, monkeypatch, tiny_family, tmp_path):
  slow = report_rows.Running(FakeEngine(12, seconds=0.01))
  monkeypatch.setattr(report_family.FamilySource, 'start', lambda *_: slow)
  record = last_json(
    *quick(tiny_family, tmp_path, '--tables', 'main', '--systems', 'joint'),
    *('--row-minutes', '0.00001'),
  )
  # Joint, and with products in eight bits.
  assert record['rows'] == {'run': 0, 'kept': 0, 'not_run': 2, 'failed': 0}
  page = (tmp_path / 'report.md').read_text()
  assert 'its 12 answers would take' in page and '--row-minutes' in page


def test_compilation_does_not_make_a_row_slow(
  last_json, monkeypatch, tiny_family, tmp_path
):
  class Compiles(FakeEngine):
    """Takes its time for every batch, because each has another shape."""

    def read(self, asked):
      self.compile_seconds = self.compile_seconds + self._seconds
      return super().read(asked)

  row = report_rows.Running(Compiles(12, seconds=0.2))
  monkeypatch.setattr(report_family.FamilySource, 'start', lambda *_: row)
  record = last_json(
    *quick(tiny_family, tmp_path, '--tables', 'main', '--systems', 'joint'),
    *('--row-minutes', '0.01', '--repeats', '0'),
  )
  assert record['rows']['run'] == 2


def test_a_second_task_joins_the_page(
  last_json, btr, started, tiny_family, tiny_records, tmp_path
):
  questions = tmp_path / 'nq.jsonl'
  records.write_records(questions, tiny_records)
  few = ('--tables', 'main', '--systems', 'joint')
  last_json(*quick(tiny_family, tmp_path / 'out', *few))
  argv = quick(tiny_family, tmp_path / 'out', *few, '--task', 'nq')
  code, _, err = btr(*argv)
  assert code == 2 and '--questions' in err
  last_json(*argv, '--questions', questions)
  page = (tmp_path / 'out' / 'report.md').read_text()
  assert page.index('## factbook') < page.index('## nq')
  assert 'the 24 passages of these questions alone' in page
  # The paper has this task: its own figures, not its nearest ones.
  assert '| paper: EM |' in page and '| paper: EM (nq) |' in page


def test_several_tasks_by_one_command(
  last_json, btr, started, tiny_family, tiny_records, tmp_path
):
  records.write_records(tmp_path / 'nq.jsonl', tiny_records)
  tasks = tmp_path / 'tasks.txt'
  argv = quick(
    *(tiny_family, tmp_path / 'out', '--tables', 'main'),
    *('--systems', 'joint', '--tasks', tasks),
  )
  code, _, err = btr(*argv)
  assert code == 2 and 'there is no such file' in err
  tasks.write_text('# none yet\n')
  code, _, err = btr(*argv)
  assert code == 2 and 'names no task' in err
  tasks.write_text(
    f'--split test --limit 5\n--task nq --questions {tmp_path}/nq.jsonl\n'
  )
  first, second = last_json(*argv)['tasks']
  assert (first['task'], second['task']) == ('factbook', 'nq')
  page = (tmp_path / 'out' / 'report.md').read_text()
  assert page.index('## factbook') < page.index('## nq')
  assert '\n5 questions of factbook test' in page
  assert '\n12 questions of ' in page and str(tmp_path) not in page


def test_ids_that_name_two_passages_are_refused(tiny_records):
  first, second, *_ = tiny_records
  other = dataclasses.replace(first.contexts[0], text='Something else.')
  second = dataclasses.replace(second, contexts=(other,))
  with pytest.raises(Exception, match="two passages have the id 'Peru-0'"):
    report_task.read_corpus('x', [first, second])
  assert len(report_task.read_corpus('x', [first, first]).passages) == 4


def test_a_dry_run_writes_nothing(btr, started, tiny_family, tmp_path):
  output = tmp_path / 'out'
  code, out, _ = btr(*quick(tiny_family, output, '--dry-run'))
  assert code == 0 and not output.exists() and not started
  assert 'to run   joint_p4: answers and speed' in out
  assert 'offline0.5_intra0.2_cross0.2by2: answers\n' in out
  assert 'language-model_p4: answers and speed (no model is given by' in out
  assert json.loads(out.splitlines()[-1])['there'] == 0


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (('--tables', 'man'), "--tables is 'man'; expected one of main,"),
    (('--tables', ''), '--tables names none'),
    (('--systems', 'fast'), "--systems is 'fast'; expected one of joint,"),
    (('--codec', 'sign'), '--codec sign: the family'),
    (('--readers', 'no-recovery=nowhere'), 'no-recovery=nowhere: no such'),
    (('--passages', '9'), '9 passages are asked for'),
    (('--passage-counts', '2,99'), '99 passages are asked for'),
    (('--language-model', 'nowhere'), '--language-model nowhere'),
    (('--lora', 'tuned'), '--lora tuned is of no model'),
    (('--language-model', '.', '--lora', 'nowhere'), '--lora nowhere: there'),
    (('--questions', 'x.jsonl'), 'needs --task'),
    (('--split', 'dev'), "'dev'"),
  ],
)
def test_bad_input_is_one_message(more, message, btr, tiny_family, tmp_path):
  output = tmp_path / 'out'
  code, out, err = btr(*quick(tiny_family, output, *more))
  assert code == 2 and not out and 'Traceback' not in err
  assert err.startswith('error: ') and message in err
  assert not output.exists()


def test_readers_of_other_shapes_are_refused(btr, tiny_family, tmp_path):
  single = tiny_family / 'joint'
  code, _, err = btr(*quick(single, tmp_path))
  assert code == 2 and 'is no family' in err and 'btr pack-family' in err
  argv = quick(tiny_family, tmp_path, '--readers', f'no-recovery={single}')
  code, _, err = btr(*argv)
  assert code == 2 and 'it has no codec' in err


def test_a_folder_of_another_run_is_refused(
  btr, last_json, started, tiny_family, tmp_path
):
  argv = quick(tiny_family, tmp_path, '--tables', 'main', '--systems', 'joint')
  last_json(*argv)
  code, _, err = btr(*argv, '--limit', '5')
  assert code == 2 and 'questions: the folder has 12, this run 5' in err
  assert '--restart' in err
  record = last_json(*argv, '--limit', '5', '--restart')
  assert record['rows']['run'] == 2


def test_a_page_of_somebody_else_is_not_overwritten(
  btr, started, tiny_family, tmp_path
):
  (tmp_path / 'report.md').write_text('# My report\n')
  argv = quick(tiny_family, tmp_path, '--tables', 'main', '--systems', 'joint')
  code, _, err = btr(*argv)
  assert code == 2 and 'was not written by `btr report`' in err
  assert (tmp_path / 'report.md').read_text() == '# My report\n'


def test_what_answers_gets_its_passages_and_no_more(tiny_records):
  asked = []

  class Echo:
    def answer(self, questions, passages):
      asked.extend(passages)
      return [question.upper() for question in questions]

  engine = report_sources.AnswersEngine(Echo(), 2)
  (answer,) = engine.read(tiny_records[:1])
  assert answer.text == tiny_records[0].question.upper()
  assert answer.timings.total > 0
  assert [p.id for p in asked[0]] == ['Peru-0', 'Peru-1']


def test_the_fingerprint_of_files(tmp_path):
  file = tmp_path / 'model.gguf'
  file.write_bytes(b'a')
  first = report_sources.fingerprint_of_files(file)
  assert report_sources.fingerprint_of_files(tmp_path) == first
  file.write_bytes(b'b')
  assert report_sources.fingerprint_of_files(file) != first


def test_real_readers(last_json, tiny_family, tmp_path, data_folder):
  """No pretending: caches are built, compressed, read, and removed."""
  record = last_json(
    *quick(tiny_family, tmp_path, '--tables', 'main,offline'),
    *('--systems', 'binary-residual', '--ratios', '0.5'),
    *('--speed-questions', '1'),
  )
  # joint, bits alone, with products in eight bits, + offline, + merging, as
  # built, and ratio 0.5.
  assert record['rows'] == {'run': 7, 'kept': 0, 'not_run': 0, 'failed': 0}
  rows = {
    path.stem: json.loads(path.read_text())
    for path in (tmp_path / 'factbook' / 'rows').iterdir()
  }
  joint, bits = rows['joint_p4'], rows['binary-residual_p4']
  assert joint['bytes_per_token'] == 0 and joint['speed']['speedup'][
    'median'
  ] == pytest.approx(1)
  small = rows['binary-residual_p4_offline0.2']
  half = rows['binary-residual_p4_offline0.5_intra0.2_cross0.2by2']
  # Files end on whole blocks, and in so small a corpus pointers and fixed
  # parts weigh more than what the higher ratio saves.
  parts = [row['storage']['parts'] for row in (half, small)]
  assert parts[0]['bits'] <= parts[1]['bits']
  caches = {path.name: path for path in (data_folder / 'caches').iterdir()}
  (kept,) = [p for name, p in caches.items() if name.endswith('-offline0.2')]
  assert not [name for name in caches if name.endswith('-offline0.5')]
  report = cache_lib.storage_report(kept)
  assert small['bytes_per_token'] == report['total']['bytes_per_token']
  assert (
    small['storage']['parts']['bits']
    == (report['parts']['bits']['bytes_per_token'])
  )
  assert bits['baseline'] == 'joint_p4' and bits['baseline_speed']
  assert len(bits['answers']) == bits['questions'] == 12


def test_what_a_cache_takes():
  report = {
    'total': {'bytes': 300, 'bytes_per_token': 3.0},
    'parts': {'bits': {'bytes': 200, 'bytes_per_token': 2.0}},
  }
  running = report_rows.Running(None, **report_rows.of_cache(report))
  assert running.store_bytes == 300 and running.bytes_per_token == 3.0
  assert running.storage == {'bits': 2.0}
  assert report_rows.Running(None) == report_rows.Running(
    None, **report_rows.of_cache(None)
  )
