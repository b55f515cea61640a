"""A data folder in which the tiny corpus stands as if it were the Factbook."""

from __future__ import annotations

import json

import pytest

from btr_jax.data import records
from btr_jax.tools import main as main_lib


@pytest.fixture(scope='session')
def data_folder(tmp_path_factory, tiny_passages, tiny_records):
  """Prepared once; caches and indexes built by one test serve the others."""
  folder = tmp_path_factory.mktemp('data')
  factbook = folder / 'factbook'
  records.write_passages(factbook / 'passages.jsonl', tiny_passages)
  for split in ('test', 'validation'):
    records.write_records(factbook / f'{split}.jsonl', tiny_records)
  records.write_json(factbook / 'report.json', {})
  return folder


@pytest.fixture
def btr(monkeypatch, data_folder, capsys):
  """Runs a command; returns exit code, standard output, standard error."""
  monkeypatch.setenv('BTR_DATA_DIR', str(data_folder))

  def run(*argv):
    capsys.readouterr()
    code = main_lib.main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run


@pytest.fixture
def last_json(btr):
  """Runs a command that must succeed; returns its last line as JSON."""

  def run(*argv):
    code, out, err = btr(*argv)
    assert code == 0, err
    lines = out.splitlines()
    # A table for people comes first.
    assert len(lines) > 3
    return json.loads(lines[-1])

  return run
