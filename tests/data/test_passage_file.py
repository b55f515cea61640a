"""A corpus on disk gives what one in memory gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from btr_jax.data import passage_file, records


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'corpus.jsonl'
  passages = [
    records.Passage(f'p{i}', f'title {i}', 'Größe ' * i) for i in range(9)
  ]
  records.write_passages(file, passages)
  lines = file.read_bytes().splitlines(keepends=True)
  # Blank lines, and no line break at the end.
  file.write_bytes(b'\n' + b''.join(lines[:4]) + b' \n\n' + b''.join(lines[4:]))
  file.write_bytes(file.read_bytes().rstrip(b'\n'))
  return file


def test_it_is_the_same_corpus(path):
  expected = records.read_passages(path)
  found = passage_file.PassageFile(path)
  assert len(found) == 9
  assert list(found) == expected
  assert found[3:7] == expected[3:7] and found[-1] == expected[-1]
  assert found[:99] == expected
  with pytest.raises(IndexError):
    found[9]
  with ThreadPoolExecutor(4) as executor:
    threads = list(executor.map(found.__getitem__, [*range(9)] * 20))
  assert threads == expected * 20


def test_a_wrong_line_is_named_when_it_is_read(path):
  path.write_bytes(path.read_bytes() + b'\n{"id": "x"}\n')
  found = passage_file.PassageFile(path)
  assert found[8].id == 'p8'
  with pytest.raises(ValueError, match='line 13.*text'):
    found[9]


def test_no_such_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    passage_file.PassageFile(tmp_path / 'none')
