"""Tables of a report: settings, intervals, records, cells, page, pictures."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import rich.console

from btr_jax.evaluation.study import (
  figures,
  intervals,
  ledger,
  page,
  paper,
  settings,
  tables,
)

CHOICE = settings.Choice(
  systems=('joint', 'decomposed-cached', 'binary-residual', 'span-binary'),
  codec='residual',
  passages=8,
  passage_counts=(4, 8),
  ratios=(0.2, 0.5),
  cross_period=2,
)


def test_one_setting_is_one_row_however_many_tables_show_it():
  made = settings.tables_of(CHOICE)
  assert [table.name for table in made] == list(settings.TABLES)
  wanted = settings.to_run(made)
  slugs = [setting.slug for setting in wanted]
  assert len(set(slugs)) == len(slugs)
  # BTR in full is in every table, and timed by all but one of them.
  full = CHOICE.full()
  shown = [t.name for t in made if full in [x.setting for x in t.lines]]
  assert shown == list(settings.TABLES) and wanted[full]
  # A cache of another ratio is only answered from.
  assert not wanted[CHOICE.full(offline_ratio=0.5)]
  assert wanted[CHOICE.full(intra_ratio=0.5, cross_ratio=0.5)]
  # What others are told against comes first.
  firsts = [s.system for s in wanted][:2]
  assert firsts == ['joint', 'joint']


def test_eight_bits_are_told_against_joint_floats():
  joint = settings.Setting('joint', 8)
  rounded = settings.Setting('joint', 8, int8_products=True)
  assert joint.baseline is None
  assert rounded.baseline == joint and rounded.slug != joint.slug


def test_the_period_is_no_difference_where_nothing_is_merged():
  bare = settings.Setting('binary-residual', 8)
  assert bare == settings.Setting('binary-residual', 8, cross_period=2)
  merged = settings.Setting('binary-residual', 8, cross_ratio=0.2)
  other = dataclasses.replace(merged, cross_period=2)
  assert merged != other and merged.slug != other.slug


def test_readers_trained_without_a_part_fill_their_rows():
  def reasons(choice):
    (table,) = [t for t in settings.tables_of(choice) if t.name == 'ablations']
    return {x.label: x for x in table.lines if x.paper in paper.ABLATIONS}

  without = reasons(CHOICE)['- recovery loss']
  assert without.setting is None and '--readers no-recovery=' in without.reason
  given = dataclasses.replace(CHOICE, trained={'no-recovery': 'calibrated'})
  line = reasons(given)['- recovery loss']
  assert line.setting.reader == 'no-recovery'
  assert line.setting.system == 'binary-calibrated'
  assert len(reasons(given)) == len(reasons(CHOICE)) == len(paper.ABLATIONS)


def test_a_family_without_a_codec_has_the_main_table_only():
  choice = dataclasses.replace(CHOICE, systems=('joint',), codec=None)
  assert [t.name for t in settings.tables_of(choice)] == ['main']


def test_intervals_are_those_of_the_binomial():
  values = np.repeat([100.0, 0.0], [60, 140])
  low, high = intervals.of_mean(values)
  # 1.96 * sqrt(.3 * .7 / 200) = 6.35
  assert low == pytest.approx(30 - 6.35, abs=0.6)
  assert high == pytest.approx(30 + 6.35, abs=0.6)
  assert intervals.of_mean(values) == (low, high)
  assert intervals.of_mean(np.full(5, 100.0)) == (100.0, 100.0)
  with pytest.raises(ValueError, match='at least one'):
    intervals.of_mean(np.zeros(0))


def test_a_ratio_takes_the_same_questions_of_both():
  values = np.repeat([100.0, 0.0], [100, 100])
  # The same answers: whatever is drawn, nothing is lost.
  assert intervals.of_ratio(values, values) == (1.0, 1.0)
  worse = values.copy()
  worse[:20] = 0
  low, high = intervals.of_ratio(worse, values)
  assert 0.7 < low < 0.8 < high < 0.9
  assert intervals.of_ratio(values, np.zeros(200)) is None
  with pytest.raises(ValueError, match='same questions'):
    intervals.of_ratio(values, values[:-1])


def test_rows_are_read_back_while_their_fingerprint_stays(tmp_path):
  rows = ledger.Ledger(tmp_path, 'factbook')
  rows.claim({'questions': 20})
  rows.write('joint_p8', {'fingerprint': 'a', 'x': 1})
  rows.claim({'questions': 20})  # the same run goes on
  assert rows.read('joint_p8', 'a') == {'fingerprint': 'a', 'x': 1}
  assert rows.read('joint_p8', 'b') is None
  assert rows.read('other', 'a') is None
  rows.path('joint_p8').write_text('{"fingerprint"')
  with pytest.raises(ValueError, match='joint_p8.json is damaged'):
    rows.read('joint_p8', 'a')


def test_a_folder_of_another_run_is_refused_with_the_difference(tmp_path):
  rows = ledger.Ledger(tmp_path, 'factbook')
  rows.claim({'questions': 20, 'batch': 1})
  rows.write('joint_p8', {'fingerprint': 'a'})
  with pytest.raises(ledger.OtherRunError) as error:
    rows.claim({'questions': 30, 'batch': 1})
  text = str(error.value)
  assert 'questions: the folder has 20, this run 30' in text
  assert 'batch' not in text and '--restart' in text
  # Looking changes nothing; restarting forgets the rows.
  with pytest.raises(ledger.OtherRunError):
    rows.claim({'questions': 30, 'batch': 1}, restart=True, look_only=True)
  rows.claim({'questions': 30, 'batch': 1}, restart=True)
  assert rows.read('joint_p8', 'a') is None


def test_a_folder_of_something_else_is_not_emptied(tmp_path):
  (tmp_path / 'factbook').mkdir()
  (tmp_path / 'factbook' / 'precious.txt').write_text('x')
  rows = ledger.Ledger(tmp_path, 'factbook')
  with pytest.raises(ledger.OtherRunError, match='is not emptied'):
    rows.claim({}, restart=True)
  assert (tmp_path / 'factbook' / 'precious.txt').exists()


def spread(value):
  return {'median': value, 'smallest': value - 1, 'largest': value + 1}


def record(right, per_second=None, size=0.0):
  speed = None
  if per_second:
    ratio = spread(per_second / 50)
    speed = {'questions_per_second': spread(per_second), 'speedup': ratio}
  return {
    'by_question': [100.0 * (i < right) for i in range(40)],
    'metrics': ['em', 'f1'],
    'headline': 'em',
    'scores': {'em': {'mean': 2.5 * right}, 'f1': {'mean': 2.5 * right + 5}},
    'speed': speed,
    'bytes_per_token': size,
    'storage': {'parts': {'bits': 8.0}} if size else None,
    'model_bytes': 4_500_000,
    'store_bytes': 2_000_000,
  }


@pytest.fixture
def made():
  """All tables; the float cache failed, span readers were not run."""
  wanted = settings.to_run(settings.tables_of(CHOICE))
  found = {
    setting: record(
      30 if setting.system == 'joint' else 24,
      50.0 if setting.system == 'joint' else 150.0,
      0.0 if setting.system == 'joint' else 13.0,
    )
    for setting in wanted
    if setting.system in ('joint', 'binary-residual')
  }
  reasons = {
    setting: (tables.FAILED, 'OSError: disk full')
    if setting.system == 'decomposed-cached'
    else (tables.NOT_RUN, 'no model')
    for setting in wanted
    if setting not in found
  }
  maker = tables.Maker('factbook', 'em', 'f1', found, reasons)
  result = {}
  for table in settings.tables_of(CHOICE):
    made_table = maker.make(table, CHOICE.full()) | {'command': 'btr report'}
    result[table.name] = json.loads(json.dumps(made_table))
  return result


def test_cells_of_the_main_table(made):
  joint, _, cache, bits, *_, span = made['main']['rows']
  assert joint['cells']['score']['value'] == 75.0
  assert joint['cells']['kept'] == {'value': 100.0, 'low': 100.0, 'high': 100.0}
  assert bits['cells']['kept']['value'] == pytest.approx(80.0)
  assert bits['cells']['kept']['low'] < 80 < bits['cells']['kept']['high']
  assert bits['cells']['second'] == 65.0
  assert bits['cells']['speedup']['median'] == 3.0
  assert bits['cells']['weights'] == 4.5 and bits['cells']['store'] == 2.0
  # Ours and the paper's never share a column.
  assert joint['cells']['paper_score'] == 52.1
  assert (cache['status'], cache['reason']) == ('failed', 'OSError: disk full')
  assert cache['cells'] == {
    'paper_score': 51.4,
    'paper_kept': 99,
    'paper_speedup': 2.2,
  }
  assert span['status'] == 'not run'
  titles = {c['key']: c['title'] for c in made['main']['columns']}
  assert titles['paper_score'] == 'paper: EM (nq)'


def test_cells_of_the_ablations(made):
  rows = {row['label']: row for row in made['ablations']['rows']}
  assert rows['BTR in full']['cells']['change']['value'] == 0
  assert rows['joint']['cells']['change']['value'] == 15.0
  assert rows['- recovery loss']['status'] == 'not run'
  assert rows['- recovery loss']['cells']['paper_change'] == -2.1
  assert rows['- offline compression']['cells']['paper_gb'] == 159.0
  # Ours alone: the paper has no such row.
  assert 'paper_score' not in rows['- both mergings']['cells']


def test_cells_of_the_curves(made):
  assert [row['x'] for row in made['offline']['rows']] == [None, 0.2, 0.5]
  (half,) = [row for row in made['offline']['rows'] if row['x'] == 0.5]
  assert half['cells']['paper_score'] == 32.1 and half['cells']['bits'] == 8.0
  assert [row['x'] for row in made['runtime']['rows']] == [0.0, 0.2, 0.5]
  labels = [row['label'] for row in made['passages']['rows']]
  assert labels == ['4, joint', '4, BTR', '8, joint', '8, BTR']


@pytest.fixture
def summary(made):
  return {
    'task': 'factbook',
    'conditions': {
      'questions': 40,
      'source': 'factbook test',
      'seeds': [0],
      'passages': 8,
      'batch': 1,
      'machine': {'cpu': 'a CPU', 'cores': 2, 'devices': ['cpu']},
      'recall': {'8': 99.3},
      'cached': 'all passages',
      'reader': 'assets/tiny',
    },
    'tables': list(made.values()),
    'notes': ['a note'],
  }


def test_the_page(summary):
  pictures = {'factbook': {'main': 'report_factbook_main.png'}}
  text = page.markdown([summary], pictures, '[guide](../report.md)')
  assert '[guide](../report.md)' in text
  assert '![factbook: the systems](report_factbook_main.png)' in text
  assert '40 questions of factbook test (seeds 0), 8 passages' in text
  assert '@8 99.3 %' in text and '- a note' in text
  lines = text.splitlines()
  (joint,) = [x for x in lines if x.startswith('| joint (Atlas, FiD) |')]
  cells = [cell.strip() for cell in joint.strip('|').split('|')]
  assert cells[1].startswith('75.0 [') and cells[3].startswith('100.0 %')
  assert cells[4] == '50.0 [49.0, 51.0]'
  assert cells[-3:] == ['52.1', '100 %', '1.0x']
  assert '- failed: decomposed, float cache (DeFormer). OSError' in text
  assert "The paper's own (NQ, base" in text and '40: 52.1 / 49.5' in text
  # Every row of a table has as many cells as its head.
  for start, line in enumerate(lines):
    if line.startswith('|---'):
      width = lines[start - 1].count('|')
      body = [x for x in lines[start:] if x.startswith('|')]
      assert body and lines[start].count('|') == width
  assert text.count('    btr report\n') == len(settings.TABLES)


def test_the_console_leaves_the_paper_out(summary):
  console = rich.console.Console(file=io.StringIO(), width=160)
  console.print(page.console_table(summary, summary['tables'][0]))
  text = console.file.getvalue()
  assert '75.0' in text and 'paper:' not in text.replace('(paper:', '')
  assert 'failed: decomposed' in text and 'no model' in text


def test_pictures(made, tmp_path):
  for name, table in made.items():
    if name == 'ablations':
      assert not figures.draws(table)
      continue
    assert figures.draws(table), name
    path = tmp_path / f'{name}.png'
    figures.draw('factbook', table, path)
    assert path.read_bytes().startswith(b'\x89PNG')
  empty = dict(made['main'], rows=[])
  assert not figures.draws(empty)


def test_the_papers_figures():
  """Against what its own text says of them."""
  atlas, btr = paper.MAIN['Atlas'], paper.MAIN['BTR']
  for task in paper.TASKS:
    ratio = btr[task].score / atlas[task].score
    assert 100 * ratio == pytest.approx(btr[task].kept, abs=0.6)
    speed = btr[task].questions_per_second / atlas[task].questions_per_second
    assert speed == pytest.approx(btr[task].speedup, abs=0.06)
  assert paper.PASSAGES[40][:2] == (52.1, 49.5)
  assert paper.OFFLINE[0.2] == (127.0, 49.5)
  assert paper.RUNTIME[0.2] == (49.5, 31.5)
  assert set(paper.OFFLINE) == set(paper.RUNTIME)
  assert paper.task_shown('factbook') == 'nq'
  assert paper.task_shown('fever') == 'fever'
