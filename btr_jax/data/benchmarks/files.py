"""Values of public data files: JSON Lines, JSON, CSV, TSV; maybe compressed.

A large file is read piece by piece; only a JSON file that is one object
(SQuAD, TriviaQA) is held whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
import csv
import io
import itertools
import json
import os
import re
from typing import Any

from btr_jax.data.corpus import text_files
from btr_jax.data.corpus.lines import unquoted
from btr_jax.data.problems import Problems

LINES = ('.jsonl', '.ndjson', '.jsonlines')
FORMATS = (*LINES, '.json', '.csv', '.tsv')
_CHUNK = 1 << 20
_LOOK_AHEAD = 1 << 12
# A row of more lines than this is most likely an unclosed quotation mark.
_MANY_LINES = 100
_BETWEEN_ITEMS = re.compile(r'[\s,]*')
# More than any passage; csv's own limit is shorter than some.
csv.field_size_limit(1 << 24)


def file_format(path: str | os.PathLike) -> str:
  """The suffix that says how a file is written, that of compression aside.

  Raises:
    ValueError: none of those that are known.
  """
  suffix = text_files.suffix_of(path)
  if suffix not in FORMATS:
    raise ValueError(
      f'{path}: unknown format; expected a name that ends in one of '
      f'{", ".join(FORMATS)}, and then possibly in one of '
      f'{", ".join(text_files.COMPRESSED)}.'
    )
  return suffix


def iterate_values(
  path: str | os.PathLike, problems: Problems, encoding: str = 'utf-8'
) -> Iterator[tuple[str, Any]]:
  """Yields (place, value): an object, or a list of columns of CSV and TSV.

  Args:
    path: a file; its name says how it is written.
    problems: takes what cannot be read.
    encoding: believed where the file has no byte order mark.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: an unknown format, or a file that cannot be read at all.
  """
  written = file_format(path)
  encoding = text_files.encoding_of(path, encoding)
  if written == '.csv' and '\t' in next(_filled_lines(path, encoding), ''):
    written = '.tsv'  # DPR's files of questions, *.qa.csv.
  if written == '.tsv':
    for number, line in text_files.iterate_lines(path, encoding, problems):
      if line.strip():
        yield f'line {number}', [unquoted(c) for c in line.split('\t')]
  elif written == '.csv':
    yield from _csv_rows(path, encoding, problems)
  elif written == '.json':
    yield from _json_values(path, encoding, problems)
  else:
    yield from _json_lines(path, encoding, problems)


def _csv_rows(path, encoding, problems) -> Iterator[tuple[str, list[str]]]:
  lines = text_files.iterate_lines(path, encoding, problems)
  rows = csv.reader(_with_gaps(lines))
  while True:
    first = rows.line_num + 1
    try:
      row = next(rows)
    except StopIteration:
      return
    except csv.Error as error:
      problems.leave_out(
        'not CSV', f'line {first}', f'{error}; expected comma-separated text.'
      )
      continue
    if rows.line_num - first >= _MANY_LINES:
      problems.leave_out(
        'unclosed quote',
        f'line {first}',
        f'the row goes on to line {rows.line_num}; expected a closing '
        'quotation mark before that.',
      )
    elif any(column.strip() for column in row):
      yield f'line {first}', row


def _with_gaps(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
  """The lines, empty ones for those left out: the reader counts them."""
  expected = 1
  for number, line in lines:
    for _ in range(expected, number):
      yield '\n'
    yield f'{line}\n'
    expected = number + 1


def _json_lines(path, encoding, problems) -> Iterator[tuple[str, Any]]:
  for number, line in text_files.iterate_lines(path, encoding, problems):
    if not line.strip():
      continue
    try:
      yield f'line {number}', json.loads(line)
    except ValueError as error:
      problems.leave_out(
        'not JSON',
        f'line {number}',
        f'{error}; expected one JSON object per line.',
      )


def _json_values(path, encoding, problems) -> Iterator[tuple[str, Any]]:
  """Of an array, of one object, or of JSON Lines under the name .json."""
  with text_files.open_binary(path) as (file, _):
    decoder = codecs.getincrementaldecoder(encoding)('replace')
    start = decoder.decode(file.read(_LOOK_AHEAD))
  if start.lstrip().startswith('['):
    yield from _array_items(path, encoding)
    return
  first, *more = [*itertools.islice(_filled_lines(path, encoding), 2)] or ['']
  try:
    json.loads(first)
    is_lines = bool(more)
  except ValueError:
    is_lines = False
  if is_lines:
    yield from _json_lines(path, encoding, problems)
  else:
    yield 'the whole file', _whole(path, encoding)


def _filled_lines(path, encoding) -> Iterator[str]:
  """Lines that are not empty, for a look ahead that counts nothing."""
  for _, line in text_files.iterate_lines(path, encoding, Problems()):
    if line.strip():
      yield line


def _whole(path, encoding) -> Any:
  try:
    with text_files.open_binary(path) as (file, _):
      return json.loads(file.read().decode(encoding))
  except text_files.DamagedFileError:
    raise
  except ValueError as error:
    raise ValueError(
      f'{path}: not JSON ({error}). Expected a JSON array, one JSON object, or '
      'one object per line.'
    ) from error


def _array_items(path, encoding) -> Iterator[tuple[str, Any]]:
  """The items of a JSON array, without ever holding all of it."""
  decoder = json.JSONDecoder()
  number, ended = 0, False
  try:
    with text_files.open_binary(path) as (raw, _):
      pieces = _decoded(raw, encoding)
      buffer = next(pieces, '')
      position = buffer.index('[') + 1
      while True:
        position = _BETWEEN_ITEMS.match(buffer, position).end()
        if buffer.startswith(']', position):
          return
        try:
          value, end = decoder.raw_decode(buffer, position)
          # A number could go on in the next piece; objects tell their end.
          whole = isinstance(value, (dict, list)) or ended
        except ValueError as error:
          if ended:
            raise ValueError(
              f'{path}, item {number + 1}: not JSON ({error}), or the file is '
              'cut short. Expected an array of objects.'
            ) from error
          whole = False
        if whole:
          number += 1
          yield f'item {number}', value
          position = end
        else:
          piece = next(pieces, '')
          ended = not piece
          buffer, position = buffer[position:] + piece, 0
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not {encoding} after item {number} ({error}); '
      + text_files.ENCODING_ADVICE
    ) from error


def _decoded(file: io.BufferedIOBase, encoding: str) -> Iterator[str]:
  decoder = codecs.getincrementaldecoder(encoding)()
  while chunk := file.read(_CHUNK):
    if text := decoder.decode(chunk):
      yield text
  if text := decoder.decode(b'', final=True):
    yield text
