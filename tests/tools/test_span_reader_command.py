"""`btr span-reader`: trains, evaluates, and says what it needs."""

from __future__ import annotations

import json

import pytest

from btr_jax.data import records as records_lib
from btr_jax.training import loop


@pytest.fixture(scope='module')
def data(tiny_records, tmp_path_factory):
  path = tmp_path_factory.mktemp('span') / 'tiny.jsonl'
  records_lib.write_records(path, tiny_records)
  return path


class Stopped(loop.StopSignal):
  """As if SIGTERM had come before the first step."""

  def is_set(self):
    return True


def test_trains_on_after_a_stop_and_evaluates(
  btr, last_json, data, tiny_encoder_folder, tmp_path, monkeypatch
):
  pytest.importorskip('tokenizers')
  run = tmp_path / 'run'
  train = (
    f'span-reader train --data {data} --output {run} --encoder '
    f'{tiny_encoder_folder} --split-layer 1 --stages 1 --batch-size 4 '
    '--window 24 --question-length 16 --passage-length 40 --answer-length 12 '
  )
  with monkeypatch.context() as patch:
    patch.setattr(loop, 'StopSignal', Stopped)
    code, _, err = btr(*f'{train} --steps 2,1,1'.split())
  assert code == 2 and 'the same command goes on' in err
  stage = run / 'stage1_joint'
  assert [p.name for p in stage.glob('checkpoint_*')] == ['checkpoint_0']
  code, _, err = btr(*f'{train} --steps 3,1,1'.split())
  assert code == 2 and 'recipe.steps: found 2, now 3' in err
  trained = last_json(*f'{train} --steps 2,1,1'.split())
  assert [p.name for p in stage.glob('checkpoint_*')] == ['checkpoint_2']
  assert trained['questions'] == 12
  assert trained['stage1_joint'] == str(stage / 'reader')
  steps = [
    json.loads(line)['step']
    for line in (stage / 'metrics.jsonl').read_text().splitlines()
  ]
  assert steps == [2]

  record = last_json(
    *f'span-reader evaluate --data {data} --run {stage}/reader --limit 4 '
    f'--passages 2 --batch-size 4 --cache {tmp_path}/caches --compress 0.2 '
    f'--output {tmp_path}/record.json'.split()
  )
  rows = {row['mode']: row for row in record['rows']}
  assert list(rows) == ['joint', 'decomposed', 'binary']
  assert rows['binary']['cached'] and not rows['joint']['cached']
  assert rows['binary']['compression'] == 0.2
  assert [*rows['joint']['provenance']['stages'][0]] == ['stage1_joint']
  assert rows['joint']['questions'] == 4
  assert record == json.loads((tmp_path / 'record.json').read_text())


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('train --output x --steps 1,2', 'has 2 numbers; expected three'),
    ('train --output x --stages 3,1', 'expected some of 1,2,3, in order'),
    ('evaluate --run x --modes both', "mode is 'both'; expected one of joint"),
    ('evaluate --run x --compress 0.2', 'needs a cache'),
    ('evaluate --run x', 'is no span reader'),
  ],
)
def test_errors_are_one_message(btr, data, arguments, message):
  code, _, err = btr('span-reader', *arguments.split(), '--data', data)
  assert code == 2
  assert message in err


def test_files_of_one_name_are_refused(btr, data, tmp_path):
  other = tmp_path / data.name
  other.write_bytes(data.read_bytes())
  code, _, err = btr(
    *('span-reader', 'evaluate', '--run', 'x', '--data', data, other)
  )
  assert code == 2 and 'two files named tiny.jsonl' in err
