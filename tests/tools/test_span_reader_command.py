"""`btr span-reader`: trains, evaluates, and says what it needs."""

from __future__ import annotations

import json

import pytest

from btr_jax.data import records as records_lib


@pytest.fixture(scope='module')
def data(tiny_records, tmp_path_factory):
  path = tmp_path_factory.mktemp('span') / 'tiny.jsonl'
  records_lib.write_records(path, tiny_records)
  return path


def test_trains_and_evaluates(last_json, data, tiny_encoder_folder, tmp_path):
  pytest.importorskip('tokenizers')
  limits = '--question-length 16 --passage-length 40 --answer-length 12'
  trained = last_json(
    *f'span-reader train --data {data} --output {tmp_path}/run '
    f'--encoder {tiny_encoder_folder} --split-layer 1 --steps 1,1,1 '
    f'--batch-size 4 --window 24 {limits}'.split()
  )
  assert trained['questions'] == 12
  record = last_json(
    *f'span-reader evaluate --data {data} --run {tmp_path}/run --limit 4 '
    f'--passages 2 --batch-size 4 --cache {tmp_path}/caches --compress 0.2 '
    f'--output {tmp_path}/record.json'.split()
  )
  rows = {row['mode']: row for row in record['rows']}
  assert list(rows) == ['joint', 'decomposed', 'binary']
  assert rows['binary']['cached'] and not rows['joint']['cached']
  assert rows['binary']['compression'] == 0.2
  assert len(rows['binary']['provenance']['stages']) == 3
  assert rows['joint']['questions'] == 4
  assert record == json.loads((tmp_path / 'record.json').read_text())


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('train --output x --steps 1,2', 'has 2 numbers; expected three'),
    ('evaluate --run x --modes both', "mode is 'both'; expected one of joint"),
    ('evaluate --run x --compress 0.2', 'needs a cache'),
    ('evaluate --run x', 'is no span reader'),
  ],
)
def test_errors_are_one_message(btr, data, arguments, message):
  code, _, err = btr('span-reader', *arguments.split(), '--data', data)
  assert code == 2
  assert message in err
