"""Values of public data files: JSON Lines, JSON, CSV, TSV; plain, .gz, .xz.

A large file is read piece by piece; only a JSON file that is one object
(SQuAD, TriviaQA) is held whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import pathlib
import re
from typing import Any
import zlib

from btr_jax.data.benchmarks import problems as problems_lib

LINES = ('.jsonl', '.ndjson', '.jsonlines')
FORMATS = (*LINES, '.json', '.csv', '.tsv')
_OPENERS = {'.gz': gzip.open, '.xz': lzma.open}
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
_CHUNK = 1 << 20
# A row of more lines than this is most likely an unclosed quotation mark.
_MANY_LINES = 100
_BETWEEN_ITEMS = re.compile(r'[\s,]*')
_UTF16 = (b'\xff\xfe', b'\xfe\xff')
# More than any passage; csv's own limit is shorter than some.
csv.field_size_limit(1 << 24)


def file_format(path: str | os.PathLike) -> str:
  """The suffix that says how a file is written, that of compression aside.

  Raises:
    ValueError: none of those that are known.
  """
  suffixes = [suffix.lower() for suffix in pathlib.Path(path).suffixes]
  if suffixes and suffixes[-1] in _OPENERS:
    suffixes.pop()
  if not suffixes or suffixes[-1] not in FORMATS:
    raise ValueError(
      f'{path}: unknown format; expected a name that ends in one of '
      f'{", ".join(FORMATS)}, and then possibly in .gz or .xz.'
    )
  return suffixes[-1]


def open_bytes(path: str | os.PathLike) -> io.BufferedIOBase:
  """Opens a file for reading, decompressed."""
  opener = _OPENERS.get(pathlib.Path(path).suffix.lower(), open)
  return opener(path, 'rb')


def iterate_lines(
  path: str | os.PathLike, problems: problems_lib.Problems
) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, text without its end) of the lines of a file.

  Lines that are not UTF-8 are left out and counted.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is cut short or damaged, or of another encoding
      altogether.
  """
  number = 0
  try:
    with open_bytes(path) as file:
      for number, line in enumerate(file, start=1):
        if number == 1 and line.startswith(_UTF16):
          raise ValueError(
            f'{path} is written in UTF-16; expected UTF-8. Convert it: '
            'iconv -f UTF-16 -t UTF-8.'
          )
        try:
          text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
        except UnicodeDecodeError as error:
          problems.leave_out(
            'not UTF-8',
            f'line {number}',
            f'byte {error.start} is {line[error.start : error.start + 1]!r}; '
            'expected UTF-8 (iconv converts).',
          )
          continue
        yield number, text.rstrip('\r\n')
  except _DAMAGED as error:
    raise ValueError(
      f'{path} is damaged or cut short after line {number} ({error}); fetch or '
      'compress it again.'
    ) from error


def iterate_values(
  path: str | os.PathLike, problems: problems_lib.Problems
) -> Iterator[tuple[str, Any]]:
  """Yields (place, value): an object, or a list of columns of CSV and TSV.

  Args:
    path: a file; its name says how it is written.
    problems: takes what cannot be read.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: an unknown format, or a file that cannot be read at all.
  """
  written = file_format(path)
  if written == '.csv' and _is_tab_separated(path):
    written = '.tsv'  # DPR's files of questions, *.qa.csv.
  if written == '.tsv':
    for number, line in iterate_lines(path, problems):
      if line.strip():
        yield f'line {number}', [_unquoted(c) for c in line.split('\t')]
  elif written == '.csv':
    yield from _csv_rows(path, problems)
  elif written == '.json':
    yield from _json_values(path, problems)
  else:
    yield from _json_lines(path, problems)


def _unquoted(column: str) -> str:
  """A column of TSV, also one that was written by a CSV writer."""
  if len(column) > 1 and column[0] == column[-1] == '"':
    inner = column[1:-1]
    if '"' not in inner.replace('""', ''):
      return inner.replace('""', '"')
  return column


def _is_tab_separated(path) -> bool:
  return b'\t' in next(_filled_lines(path), b'')


def _csv_rows(path, problems) -> Iterator[tuple[str, list[str]]]:
  rows = csv.reader(_with_gaps(iterate_lines(path, problems)))
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


def _json_lines(path, problems) -> Iterator[tuple[str, Any]]:
  for number, line in iterate_lines(path, problems):
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


def _json_values(path, problems) -> Iterator[tuple[str, Any]]:
  """Of an array, of one object, or of JSON Lines under the name .json."""
  first = next(_filled_lines(path), b'').removeprefix(codecs.BOM_UTF8).lstrip()
  if first.startswith(b'['):
    yield from _array_items(path)
    return
  try:
    json.loads(first)
    is_lines = len(list(itertools.islice(_filled_lines(path), 2))) > 1
  except ValueError:
    is_lines = False
  if is_lines:
    yield from _json_lines(path, problems)
  else:
    yield 'the whole file', _whole(path)


def _filled_lines(path) -> Iterator[bytes]:
  try:
    with open_bytes(path) as file:
      yield from (line for line in file if line.strip())
  except _DAMAGED as error:
    raise ValueError(
      f'{path} is damaged or cut short ({error}); fetch or compress it again.'
    ) from error


def _whole(path) -> Any:
  try:
    with open_bytes(path) as file:
      return json.load(file)
  except (ValueError, *_DAMAGED) as error:
    raise ValueError(
      f'{path}: not JSON ({error}). Expected a JSON array, one JSON object, or '
      'one object per line.'
    ) from error


def _array_items(path) -> Iterator[tuple[str, Any]]:
  """The items of a JSON array, without ever holding all of it."""
  decoder = json.JSONDecoder()
  number, ended = 0, False
  try:
    with open_bytes(path) as raw:
      pieces = _decoded(raw)
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
  except (UnicodeDecodeError, *_DAMAGED) as error:
    raise ValueError(
      f'{path} is damaged, cut short or not UTF-8 after item {number} '
      f'({error}).'
    ) from error


def _decoded(file: io.BufferedIOBase) -> Iterator[str]:
  decoder = codecs.getincrementaldecoder('utf-8-sig')()
  while chunk := file.read(_CHUNK):
    if text := decoder.decode(chunk):
      yield text
  if text := decoder.decode(b'', final=True):
    yield text
