"""The questions of a benchmark, out of any of its public formats."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os
import pathlib
from typing import Any

from btr_jax.data.benchmarks import contexts, files, rows, table
from btr_jax.data.corpus import text_files
from btr_jax.data.problems import Problems
from btr_jax.data.records import Record


def files_of(path: str | os.PathLike) -> list[str]:
  """A file, or the data files of a folder by name.

  Raises:
    ValueError: the folder holds none.
  """
  if not os.path.isdir(path):
    return [os.fspath(path)]
  found = sorted(
    str(file)
    for file in pathlib.Path(path).iterdir()
    if file.is_file() and _is_data(file)
  )
  if not found:
    raise ValueError(
      f'The folder {path} holds no data; expected files that end in '
      f'{", ".join(files.FORMATS)}, and then possibly in one of '
      f'{", ".join(text_files.COMPRESSED)}.'
    )
  return found


def _is_data(path: pathlib.Path) -> bool:
  try:
    files.file_format(path)
  except ValueError:
    return False
  return not path.name.startswith('.')


def iterate_objects(
  benchmark: table.Benchmark,
  path: str | os.PathLike,
  found: Problems,
) -> Iterator[dict[str, Any]]:
  """Yields the objects of the questions, also those that cannot be used."""
  for _, _, value in _iterate(benchmark, path, found):
    if isinstance(value, dict):
      yield value


def iterate_questions(
  benchmark: table.Benchmark,
  path: str | os.PathLike,
  found: Problems,
  limit: int = 0,
  find: contexts.FindPassage | None = None,
  encoding: str = 'utf-8',
) -> Iterator[tuple[str, Record]]:
  """Yields (place, record).

  A question without an id gets its number, from 0, among all questions of
  the file or folder; those that are left out count as well, a header does not.

  Args:
    benchmark: says what its files look like.
    path: a file, or a folder of files.
    found: takes what cannot be used.
    limit: passages per question that are read, if the file holds some.
    find: looks up passages that are named by id only.
    encoding: of the files, where they have no byte order mark.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a file cannot be read at all.
  """
  seen: dict[str, str] = {}
  for number, file, place, value in _numbered(
    _iterate(benchmark, path, found, encoding), found
  ):
    try:
      if isinstance(value, rows.Unusable):
        raise value
      if not isinstance(value, dict):
        raise rows.Unusable(
          'no object', f'{rows.shortened(repr(value))}; expected an object.'
        )
      record = benchmark.parse(value, file)
      record = dataclasses.replace(record, id=record.id or str(number))
      if record.id in seen:
        raise rows.Unusable(
          'duplicate id',
          f'the id {record.id!r} stands on {seen[record.id]} already; ids must '
          'be unique.',
        )
      if limit and contexts.holds_passages(value):
        record = dataclasses.replace(
          record, contexts=contexts.contexts_of(value, record.id, limit, find)
        )
    except rows.Unusable as error:
      found.leave_out(error.kind, place, error.message)
      continue
    seen[record.id] = ', '.join(filter(None, (found.prefix, place)))
    yield place, record


def _numbered(values, found) -> Iterator[tuple[int, str, str, Any]]:
  """Numbers from 0 that also count what could not be read at all."""
  number = 0
  while True:
    before = found.total
    item = next(values, None)
    number += found.total - before
    if item is None:
      return
    yield number, *item
    number += 1


def _iterate(
  benchmark, path, found, encoding='utf-8'
) -> Iterator[tuple[str, str, Any]]:
  """(file, place, object or why there is none) of every question."""
  several = os.path.isdir(path)
  for file in files_of(path):
    header: list[str] | None = None
    found.prefix = os.path.basename(file) if several else ''
    values = files.iterate_values(file, found, encoding)
    for number, (place, value) in enumerate(values):
      if isinstance(value, list):
        if number == 0 and rows.is_header(value):
          header = [_column_name(column) for column in value]
          continue
        try:
          value = rows.from_columns(value, header, benchmark.columns)
        except rows.Unusable as error:
          value = error
      items = benchmark.expand(value)
      if items is None:
        yield file, place, value
      else:
        for item_number, item in enumerate(items, start=1):
          yield file, f'question {item_number}', item
  found.prefix = ''


def _column_name(column: str) -> str:
  """As the formats write it: choices are A to D, everything else is lower."""
  name = column.strip()
  return name.upper() if len(name) == 1 else name.lower()
