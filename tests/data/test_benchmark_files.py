"""Values out of JSON Lines, JSON, CSV and TSV, whole and broken."""

from __future__ import annotations

import gzip
import json
import lzma

import pytest

from btr_jax.data import problems as problems_lib
from btr_jax.data.benchmarks import files

OBJECTS = [{'question': 'Who?', 'n': 1}, {'question': 'Où, "là"?', 'n': [2]}]


def values(path, strict=False):
  found = problems_lib.Problems(str(path), strict)
  return list(files.iterate_values(path, found)), found


def write(path, text):
  opener = {'.gz': gzip.open, '.xz': lzma.open}.get(path.suffix, open)
  with opener(path, 'wb') as file:
    file.write(text if isinstance(text, bytes) else text.encode())
  return path


@pytest.mark.parametrize('compression', ['', '.gz', '.xz'])
@pytest.mark.parametrize('suffix', ['.jsonl', '.json'])
def test_json_lines(tmp_path, suffix, compression):
  text = '\n\n'.join(json.dumps(value) for value in OBJECTS)
  path = write(tmp_path / f'q{suffix}{compression}', text)
  found, problems = values(path)
  assert found == [('line 1', OBJECTS[0]), ('line 3', OBJECTS[1])]
  assert not problems.summary()


@pytest.mark.parametrize('indent', [None, 2])
@pytest.mark.parametrize('chunk', [3, 1 << 20])
def test_array_in_pieces(tmp_path, monkeypatch, indent, chunk):
  monkeypatch.setattr(files, '_CHUNK', chunk)
  path = tmp_path / 'q.json'
  path.write_text(json.dumps(OBJECTS, ensure_ascii=False, indent=indent))
  assert values(path)[0] == [('item 1', OBJECTS[0]), ('item 2', OBJECTS[1])]


def test_array_of_numbers_is_not_cut_within_one(tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_CHUNK', 2)
  path = write(tmp_path / 'q.json', '[123, 45]')
  assert [value for _, value in values(path)[0]] == [123, 45]


@pytest.mark.parametrize('indent', [None, 1])
def test_one_object_is_the_whole_file(tmp_path, indent):
  document = {'data': OBJECTS}
  path = write(tmp_path / 'q.json', json.dumps(document, indent=indent))
  assert values(path)[0] == [('the whole file', document)]


def test_csv_with_lines_and_quotes_within_columns(tmp_path):
  path = write(tmp_path / 'q.csv', 'a,"b ""x""\nc",d\n\ne,f,g\n')
  assert values(path)[0] == [
    ('line 1', ['a', 'b "x"\nc', 'd']),
    ('line 4', ['e', 'f', 'g']),
  ]


def test_csv_with_tabs_is_tsv(tmp_path):
  """DPR names its tab-separated files of questions nq-test.qa.csv."""
  path = write(tmp_path / 'nq.qa.csv', 'who, and when\t"[\'a\', ""b""]"\n')
  assert values(path)[0] == [('line 1', ['who, and when', '[\'a\', "b"]'])]


def test_tsv_quotes_are_taken_off_where_a_writer_put_them(tmp_path):
  text = '1\t"""Aaron"" was"\tA\n2\t"Official" copies\tB\n'
  found, _ = values(write(tmp_path / 'p.tsv', text))
  assert [value[1] for _, value in found] == [
    '"Aaron" was',
    '"Official" copies',
  ]


def test_bom_is_no_text(tmp_path):
  path = write(tmp_path / 'q.jsonl', b'\xef\xbb\xbf{"a": 1}\n')
  assert values(path)[0] == [('line 1', {'a': 1})]


@pytest.mark.parametrize('name', ['q.jsonl', 'q.json', 'q.csv', 'q.tsv'])
def test_a_mark_of_utf_16_is_believed(tmp_path, name):
  text = 'Où\tx\n' if name.endswith('sv') else '{"a": "Où"}\n'
  path = tmp_path / name
  path.write_text(text, encoding='utf-16')
  ((_, value),) = values(path)[0]
  assert value == (['Où', 'x'] if name.endswith('sv') else {'a': 'Où'})


def test_bad_lines_are_counted_and_named(tmp_path):
  text = b'{"a": 1}\n{"a": \n{"b": "\xe9"}\n[1\n{"c": 3}\n'
  found, problems = values(write(tmp_path / 'q.jsonl', text))
  assert found == [('line 1', {'a': 1}), ('line 5', {'c': 3})]
  assert problems.total == 3
  record = problems.to_dict()
  assert record['left_out'] == {'not JSON': 2, 'encoding': 1}
  assert record['places'] == {
    'not JSON': ['line 2', 'line 4'],
    'encoding': ['line 3'],
  }
  assert 'line 2, line 4' in ' '.join(problems.summary())
  with pytest.raises(ValueError, match='q.jsonl, line 2: .*strict off'):
    values(tmp_path / 'q.jsonl', strict=True)


def test_many_bad_lines_are_named_up_to_a_limit(tmp_path):
  path = write(tmp_path / 'q.jsonl', 'x\n' * 50 + '{"a": 1}\n')
  (summary,) = values(path)[1].summary()
  assert '50 x not JSON' in summary
  assert f'line {problems_lib.NAMED}, ...' in summary


def test_unclosed_quote_of_csv(tmp_path):
  path = write(tmp_path / 'q.csv', 'a,b\nc,"d\n' + 'e,f\n' * 200)
  found, problems = values(path)
  assert found == [('line 1', ['a', 'b'])]
  assert problems.to_dict()['places'] == {'unclosed quote': ['line 2']}


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    # No time in it: two workers must collect the same tests.
    (
      'q.jsonl.gz',
      gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9],
      'cut short',
    ),
    ('q.jsonl.gz', b'no gzip', 'damaged'),
    ('q.jsonl.xz', b'no xz', 'damaged'),
    ('q.json', b'[{"a": 1}, {"b"', 'item 2: not JSON.*cut short'),
    ('q.json', b'[{"a": 1}, {"b": "\xe9"}]', 'not utf-8'),
    ('q.json', b'{"a": \n 1', 'not JSON'),
    ('q.parquet', b'', r'unknown format.*\.jsonl'),
  ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    values(tmp_path / name)
