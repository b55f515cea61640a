"""Preparing a small Factbook: files, reuse, judgements."""

import json
import os
import pathlib

import pytest

from btr_jax.data import records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.data.factbook import prepare

COUNTRIES = ('pe', 'ci', 'bl', 'ec', 'no', 'sw', 'ke')
OPTIONS = {'countries': COUNTRIES, 'vocab_size': 1200, 'num_passages': 8}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  return prepare.prepare(tmp_path_factory.mktemp('factbook'), **OPTIONS)


def test_files_and_report(files):
  report = files.read_report()
  passages = records.read_passages(files.passages)
  assert report['passages'] == len(passages)
  assert report['passage_tokens']['p50'] > 20
  assert sum(v['countries'] for v in report['splits'].values()) == 7
  for split, figures in report['splits'].items():
    found = records.read_records(files.split(split))
    assert figures['records'] == len(found)
    assert figures['recall']['8'] > 0.9
  train = report['splits']['train']
  assert train['records'] >= 3 * train['questions']
  test = report['splits']['test']
  assert test['records'] == test['questions']


def test_vocabulary_has_the_size_asked_for(files):
  vocabulary = vocabulary_lib.Vocabulary(files.vocabulary)
  assert vocabulary.vocab_size == 1300


def test_records_are_judged_by_field_and_country(files):
  texts = {p.id: p for p in records.read_passages(files.passages)}
  for record in records.read_records(files.split('test')):
    assert len(record.contexts) <= 8
    scores = [context.score for context in record.contexts]
    assert scores == sorted(scores, reverse=True)
    for context in record.contexts:
      assert context.passage == texts[context.id]
      if context.has_answer:
        assert record.answers[0] in context.text
        assert context.title.startswith(record.extra['country'] + ':')
      assert context.has_answer or context.id != record.extra['gold']


def test_countries_stand_in_one_split_only(files):
  seen = [
    {r.extra['country'] for r in records.read_records(files.split(split))}
    for split in ('train', 'validation', 'test')
  ]
  assert not seen[0] & seen[1] and not seen[0] & seen[2]
  assert not seen[1] & seen[2]


def test_answers_are_short_and_within_reach(files):
  vocabulary = vocabulary_lib.Vocabulary(files.vocabulary)
  for record in records.read_records(files.split('validation')):
    answer = vocabulary.encode(f'<extra_id_0> {record.answers[0]}')
    assert len(answer) <= prepare.MAX_ANSWER_TOKENS + 1
    assert vocabulary.unk_id not in answer


def test_complete_folder_is_reused(files):
  before = os.stat(files.report).st_mtime_ns
  messages = []
  again = prepare.prepare(files.folder, **OPTIONS, progress=messages.append)
  assert again == files
  assert messages == []
  assert os.stat(files.report).st_mtime_ns == before


def test_incomplete_or_other_folder_is_not_complete(files):
  settings = files.read_report()['settings']
  assert prepare.is_complete(files, settings)
  assert not prepare.is_complete(files, settings | {'seed': 1})
  path = pathlib.Path(files.report)
  report = path.read_text()
  try:
    path.unlink()
    assert not prepare.is_complete(files, settings)
    path.write_text(report[:50])
    assert not prepare.is_complete(files, settings)
  finally:
    path.write_text(report)


def test_same_input_gives_the_same_files(files, tmp_path):
  again = prepare.prepare(tmp_path, **OPTIONS)
  for name in sorted(os.listdir(files.folder)):
    with open(os.path.join(files.folder, name), 'rb') as file:
      first = file.read()
    assert (tmp_path / name).read_bytes() == first, name
  assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(files.folder))
  assert again.folder == str(tmp_path)


def test_given_vocabulary_is_used(files, tmp_path):
  found = prepare.prepare(
    tmp_path, vocab_path=files.vocabulary, countries=COUNTRIES[:6]
  )
  given = vocabulary_lib.Vocabulary(files.vocabulary)
  used = vocabulary_lib.Vocabulary(found.vocabulary)
  assert used.fingerprint == given.fingerprint
  settings = found.read_report()['settings']
  assert settings['vocabulary'] == {'given': given.fingerprint}
  assert json.dumps(settings)


def test_unknown_split(files):
  with pytest.raises(ValueError, match="no split 'dev'"):
    files.split('dev')


def test_unknown_country(tmp_path):
  with pytest.raises(ValueError, match=r"no pages \['atlantis'\]"):
    prepare.prepare(tmp_path, countries=['atlantis'])


def test_too_few_countries(tmp_path):
  with pytest.raises(ValueError, match='too few'):
    prepare.prepare(tmp_path, countries=['pe', 'ci'])


def test_default_folder_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path))
  assert prepare.default_folder() == str(tmp_path / 'factbook')
  monkeypatch.delenv('BTR_DATA_DIR')
  assert prepare.default_folder().endswith(
    os.path.join('.cache', 'btr_jax', 'factbook')
  )
