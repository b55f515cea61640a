"""Files of retrieved passages that stand apart from the questions.

Either objects with "id" or "question" and "ctxs" (what `btr retrieve`
writes), or rows of TSV: qid, passage ids, scores and whether each passage
holds an answer, with commas between the passages.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
from typing import Any

from btr_jax.data.benchmarks import contexts, files, rows
from btr_jax.data.problems import Problems

_ID_COLUMNS = ('qid', 'row', 'id')


def iterate_retrieved(
  path: str | os.PathLike, found: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (place, object with "id" or "question" and "ctxs").

  Args:
    path: the file.
    found: takes lines that cannot be used.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read at all.
  """
  header: list[str] | None = None
  for number, (place, value) in enumerate(files.iterate_values(path, found)):
    try:
      if isinstance(value, list):
        names = [column.strip().lower() for column in value]
        if number == 0:
          header = _header(names, path)
          continue
        value = _from_row(value, header)
      if not isinstance(value, dict) or not contexts.holds_passages(value):
        raise rows.Unusable(
          'no passages',
          'expected an object with "ctxs", a list of passages; found '
          f'{rows.shortened(repr(value))}.',
        )
      yield place, value
    except rows.Unusable as error:
      found.leave_out(error.kind, place, error.message)


def _header(names: list[str], path: str | os.PathLike) -> list[str]:
  if names[0] in _ID_COLUMNS and 'passage_ids' in names:
    return names
  raise ValueError(
    f'{path}: the first row is {names!r}; expected the header qid, '
    'passage_ids, scores, has_answer (the last two may be missing).'
  )


def _from_row(row: list[str], header: list[str] | None) -> dict[str, Any]:
  value = rows.from_columns(row, header, {})
  identifier = next(value[name] for name in _ID_COLUMNS if name in value)
  passages = _parts(value['passage_ids'])
  scores = _parts(value.get('scores', ''))
  judged = value.get('has_answer', '').strip()
  for name, items in (('scores', scores), ('has_answer', judged)):
    if items and len(items) != len(passages):
      raise rows.Unusable(
        'lists of different lengths',
        f'{len(passages)} passage_ids and {len(items)} {name}.',
      )
  return {
    'id': identifier.strip(),
    'ctxs': [
      {
        'id': passage,
        **({'score': scores[rank]} if scores else {}),
        **({'has_answer': judged[rank] == '1'} if judged else {}),
      }
      for rank, passage in enumerate(passages)
    ],
  }


def _parts(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]
