"""Questions with answers out of JSONL, CSV and TSV files, maybe compressed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import csv
import json
import os
from typing import Any

from btr_jax.data.corpus import text_files
from btr_jax.data.corpus.problems import Problems
from btr_jax.data.records import Record

DELIMITERS = {'.csv': ',', '.tsv': '\t'}
SUFFIXES = ('.jsonl', '.ndjson', *DELIMITERS)


def iterate_questions(
  path: str | os.PathLike, problems: Problems, encoding: str = 'utf-8'
) -> Iterator[Record]:
  """Yields the questions of a file as records without passages.

  JSONL: {"question", "answers" or "answer", "id"}; other keys are kept, but
  for "ctxs", which retrieval makes anew. CSV and TSV: question and answers,
  the latter a list in JSON or Python's spelling (as DPR writes them) or one
  answer; a first line "question..." names the columns. A question without id
  gets the number of its line, from 0.

  Args:
    path: the file.
    problems: takes lines that are no question, and ids that stood before.
    encoding: believed where the file has no byte order mark.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is of no known kind.
  """
  suffix = text_files.suffix_of(path)
  if suffix not in SUFFIXES:
    raise ValueError(
      f'{path} has the suffix {suffix!r}; expected one of '
      f'{", ".join(SUFFIXES)}, maybe with '
      f'{", ".join(text_files.COMPRESSED)} behind it.'
    )
  lines = text_files.iterate_lines(path, encoding, problems)
  seen: dict[str, int] = {}
  if suffix in DELIMITERS:
    delimiter = DELIMITERS[suffix]
    values = _table_values(lines, str(path), delimiter, problems)
  else:
    values = _json_values(lines, str(path), problems)
  for number, value in values:
    where = f'{path}, line {number}'
    record = _record(value, number, where, problems)
    if record is None:
      continue
    if record.id in seen:
      problems.add(
        'duplicate id',
        where,
        f'the id {record.id!r} stands on line {seen[record.id]} already',
      )
      continue
    seen[record.id] = number
    yield record


def _json_values(
  lines: Iterator[tuple[int, str]], name: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in lines:
    if not line.strip():
      continue
    try:
      value = json.loads(line)
    except ValueError as error:
      problems.add(
        'not JSON',
        f'{name}, line {number}',
        f'{error}; expected one object a line',
      )
      continue
    if isinstance(value, dict):
      yield number, value
    else:
      problems.add(
        'not an object',
        f'{name}, line {number}',
        f'found {type(value).__name__}, expected an object with "question"',
      )


def _table_values(
  lines: Iterator[tuple[int, str]],
  name: str,
  delimiter: str,
  problems: Problems,
) -> Iterator[tuple[int, dict[str, Any]]]:
  columns = ['question', 'answers']
  for number, line in lines:
    if not line.strip():
      continue
    (fields,) = csv.reader([line], delimiter=delimiter)
    if number == 1 and 'question' in fields:
      columns = fields
      continue
    if len(fields) != len(columns):
      problems.add(
        'columns',
        f'{name}, line {number}',
        f'found {len(fields)} columns, expected {len(columns)} '
        f'({", ".join(columns)})',
      )
      continue
    value: dict[str, Any] = dict(zip(columns, fields, strict=True))
    for key in ('answers', 'answer'):
      if key in value:
        value[key] = _answer_list(value[key])
    yield number, value


def _answer_list(text: str) -> list[Any]:
  """A list in JSON or Python's spelling, or the text as the one answer."""
  if text.startswith('[') and text.endswith(']'):
    for parse in (json.loads, ast.literal_eval):
      try:
        value = parse(text)
      except (ValueError, SyntaxError):
        continue
      if isinstance(value, list):
        return value
  return [text] if text.strip() else []


def _record(
  value: dict[str, Any], number: int, where: str, problems: Problems
) -> Record | None:
  value = dict(value)
  question = value.pop('question', None)
  if not isinstance(question, str) or not question.strip():
    problems.add(
      'no question', where, f'"question" is {question!r:.60}; expected text'
    )
    return None
  answers = value.pop('answers', None)
  if answers is None:
    answers = value.pop('answer', [])
  if isinstance(answers, str):
    answers = [answers]
  if not isinstance(answers, list) or not all(
    isinstance(answer, str) for answer in answers
  ):
    problems.add(
      'answers', where, f'found {answers!r:.60}; expected a list of strings'
    )
    return None
  identifier = value.pop('id', number - 1)
  if not isinstance(identifier, str | int):
    problems.add(
      'id', where, f'found {identifier!r:.60}; expected a string or an integer'
    )
    return None
  value.pop('ctxs', None)
  return Record(str(identifier), question, tuple(answers), (), value)
