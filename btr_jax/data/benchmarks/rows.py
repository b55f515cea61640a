"""Rows and objects of question files as objects with known keys."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
import json
from typing import Any

# Names by which a first row is known to be a header.
_HEADER_NAMES = frozenset(
  'id qid question answers answer claim label subject choices options title '
  'a b c d relation split query'.split()
)
_ASKED = frozenset({'question', 'claim', 'query'})


class Unusable(Exception):  # noqa: N818 (counted, not raised to users)
  """A line that cannot be used: its kind, and a message with the fix."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind
    self.message = message


def is_header(row: Sequence[str]) -> bool:
  """Whether a first row names its columns."""
  names = [column.strip().lower() for column in row]
  if not _ASKED & set(names):
    return False
  # Others than the known may stand beside them; but an answer may well be
  # "claim", and then the question before it is no name.
  return names[0] in _ASKED or len(_HEADER_NAMES & set(names)) > 1


def from_columns(
  row: Sequence[str],
  header: Sequence[str] | None,
  columns: Mapping[int, tuple[str, ...]],
) -> dict[str, Any]:
  """A row of CSV or TSV as an object.

  Args:
    row: its columns.
    header: their names, if the file tells them.
    columns: names by number of columns, for files without a header.

  Raises:
    Unusable: another number of columns.
  """
  names = header if header is not None else columns.get(len(row))
  if names is None or len(names) != len(row):
    expected = (
      f'the {len(header)} of the header ({", ".join(header)})'
      if header is not None
      else ' or '.join(
        f'{count} ({", ".join(names)})' for count, names in columns.items()
      )
    )
    raise Unusable(
      'wrong number of columns',
      f'{len(row)} columns, expected {expected}; it begins '
      f'{shortened(str(row[0]))!r}.',
    )
  value = {
    name.strip(): column for name, column in zip(names, row, strict=True)
  }
  for key in ('answers', 'answer', 'choices', 'options'):
    if key in value:
      value[key] = _literal(value[key])
  return value


def _literal(text: str) -> Any:
  """A list that was written into a column; anything else is text."""
  if not text.strip().startswith('['):
    return text
  for read in (json.loads, ast.literal_eval):
    try:
      return read(text)
    except (ValueError, SyntaxError):
      continue
  return text


def take_text(value: Mapping[str, Any], keys: Sequence[str], kind: str) -> str:
  """The first of the keys that is there, as text on one line.

  Raises:
    Unusable: none is there, or it holds no text.
  """
  for key in keys:
    if key in value:
      found = value[key]
      if not isinstance(found, str):
        raise Unusable(
          f'{kind} is no text', f'"{key}" is {found!r}; expected a string.'
        )
      text = ' '.join(found.split())
      if not text:
        raise Unusable(
          f'empty {kind}', f'"{key}" is empty; expected some text.'
        )
      return text
  raise Unusable(
    f'no {kind}',
    f'expected the key {" or ".join(map(repr, keys))}, found '
    f'{sorted(map(str, value))}.',
  )


def take_id(value: Mapping[str, Any]) -> str | None:
  """The identifier of a question, where it has one."""
  for key in ('id', 'qid', 'question_id', 'QuestionId', 'qId'):
    found = value.get(key)
    if isinstance(found, (str, int)) and not isinstance(found, bool):
      return str(found)
  return None


def strings_in(value: Any) -> Iterator[str]:
  """Strings of an answer as the public files nest them, in order."""
  if isinstance(value, bool) or value is None:
    return
  if isinstance(value, str):
    yield value
  elif isinstance(value, (int, float)):
    yield str(value)
  elif isinstance(value, list):
    for item in value:
      yield from strings_in(item)
  elif isinstance(value, dict):
    # TriviaQA, SQuAD, KILT; lower case as republished elsewhere.
    for key in ('Value', 'value', 'Aliases', 'aliases', 'text', 'answer'):
      yield from strings_in(value.get(key))


def shortened(text: str, length: int = 60) -> str:
  """The text, or its beginning."""
  return text if len(text) <= length else f'{text[: length - 3]}...'
