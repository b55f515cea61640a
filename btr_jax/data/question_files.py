"""Questions of any set, to look for passages for, with answers or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

from btr_jax.data.benchmarks import contexts, open_qa, questions, rows, table
from btr_jax.data.problems import Problems
from btr_jax.data.records import Record

_QUESTION_KEYS = (*open_qa.QUESTION_KEYS, 'claim')
# What other keys say, the answers and the passages that are found anew.
_TAKEN = frozenset(
  (*_QUESTION_KEYS, *open_qa.ANSWER_KEYS, *contexts.LIST_KEYS, 'id')
)


def iterate_questions(
  path: str | os.PathLike, problems: Problems, encoding: str = 'utf-8'
) -> Iterator[Record]:
  """Yields the questions of a file as records without passages.

  Read are the files that the tasks read, and numbered as they number them, so
  that passages found for a question without id are joined with that question.
  Other keys than question, answers and id are kept.

  Args:
    path: JSON Lines, JSON, CSV or TSV, maybe compressed.
    problems: takes lines that are no question, and ids that stood before.
    encoding: believed where the file has no byte order mark.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is of no known kind, or cannot be read.
  """
  found = questions.iterate_questions(_ANY, path, problems, encoding=encoding)
  return (record for _, record in found)


def _parse(value: Mapping[str, Any], where: str) -> Record:
  del where
  question = rows.take_text(value, _QUESTION_KEYS, 'question')
  answers = tuple(open_qa.answers_of(value))
  given = [value[key] for key in open_qa.ANSWER_KEYS if value.get(key)]
  if given and not answers:
    raise rows.Unusable(
      'answers',
      f'found {rows.shortened(repr(given[0]))}; expected a list of strings.',
    )
  identifier = rows.take_id(value)
  if identifier is None and value.get('id') is not None:
    raise rows.Unusable(
      'id',
      f'found {rows.shortened(repr(value["id"]))}; expected a string or an '
      'integer.',
    )
  extra = {key: item for key, item in value.items() if key not in _TAKEN}
  return Record(identifier or '', question, answers, extra=extra)


_ANY = dataclasses.replace(
  table.benchmark('nq'),
  name='questions',
  parse=_parse,
  columns={1: ('question',), **open_qa.COLUMNS},
)
