"""Passages out of lines: DPR's TSV, Atlas's and other JSONL, KILT's pages."""

from __future__ import annotations

from collections.abc import Iterator
import json
import re
from typing import Any

from btr_jax.data.corpus import splitting
from btr_jax.data.corpus.splitting import Kind, Piece
from btr_jax.data.problems import Problems
from btr_jax.data.records import Passage

TABLE = ('.tsv',)
JSON_LINES = ('.jsonl', '.ndjson')
SUFFIXES = (*TABLE, *JSON_LINES)
COLUMNS = ('id', 'text', 'title')  # DPR's order

# A passage may be that much longer than asked for before it is cut.
_SLACK = 1.5
# Where it stands in its file, for messages, and the passage.
Found = tuple[str, Passage]
_KILT_SECTION = re.compile(r'^Section::::(.*?)\.?\s*$')
_KILT_BULLET = re.compile(r'^BULLET::::-\s*')


def unquoted(field: str) -> str:
  """Takes off the quotes that CSV writers put around a field.

  Only if all of it is quoted and every quote inside is doubled: texts that
  merely begin with a quotation stay as they are.
  """
  if len(field) > 1 and field[0] == field[-1] == '"':
    inner = field[1:-1]
    if '"' not in inner.replace('""', ''):
      return inner.replace('""', '"')
  return field


def clean(text: str) -> str:
  """One line with single spaces, and nothing that UTF-8 cannot write.

  JSON can spell half of a surrogate pair ("\\ud800"), which is no character.
  """
  return ' '.join(text.encode('utf-8', 'replace').decode().split())


def table_passages(
  lines: Iterator[tuple[int, str]], words: int, problems: Problems
) -> Iterator[Found]:
  """Passages of a TSV file with the columns id, text, title.

  Args:
    lines: (number, line); a header line, in any order of columns, is used.
    words: in a passage; much longer texts are cut.
    problems: takes lines that have other columns, no id or no text.
  """
  order = COLUMNS
  for number, line in lines:
    fields = [unquoted(field) for field in line.split('\t')]
    if number == 1 and set(fields) == set(COLUMNS):
      order = tuple(fields)
      continue
    if not line.strip():
      continue
    where = f'line {number}'
    if len(fields) != len(order):
      problems.leave_out(
        'columns',
        where,
        f'found {len(fields)} columns, expected {len(order)} '
        f'({", ".join(order)}) with tabs between',
      )
      continue
    values = dict(zip(order, fields, strict=True))
    if not values['id'].strip():
      problems.leave_out(
        'no id', where, 'the column id is empty; give it a value'
      )
      continue
    yield from _passages(
      values['id'].strip(), values['title'], values['text'], where, words,
      problems,
    )  # fmt: skip


def json_passages(
  lines: Iterator[tuple[int, str]], name: str, words: int, problems: Problems
) -> Iterator[Found]:
  """Passages of a JSONL file.

  A line is a passage {"id", "title", "text"}, with "section" as in Atlas's
  text-list and infobox files, or a page of KILT's knowledge source
  {"wikipedia_id", "wikipedia_title", "text": [paragraphs]}, or a question with
  the passages that were found for it, {"ctxs": [passages]}. A passage without
  "id" is named after file and line.

  Args:
    lines: (number, line).
    name: of the file, for ids.
    words: in a passage; pages and much longer texts are cut.
    problems: takes lines that are none of these.
  """
  for number, line in lines:
    if not line.strip():
      continue
    where = f'line {number}'
    try:
      value = json.loads(line)
    except ValueError as error:
      problems.leave_out(
        'not JSON', where, f'{error}; expected one object a line'
      )
      continue
    if not isinstance(value, dict):
      problems.leave_out(
        'not an object', where, f'found {type(value).__name__}, expected an '
        'object with "id", "title" and "text"'
      )  # fmt: skip
      continue
    if isinstance(value.get('ctxs'), list):
      for rank, context in enumerate(value['ctxs']):
        yield from _json_passage(
          context,
          f'{name}#{number}-{rank}',
          f'{where}, ctxs[{rank}]',
          words,
          problems,
        )
    elif isinstance(value.get('text'), list):
      yield from _kilt_passages(value, where, words, problems)
    else:
      yield from _json_passage(
        value, f'{name}#{number}', where, words, problems
      )


def _json_passage(
  value: Any, default_id: str, where: str, words: int, problems: Problems
) -> Iterator[Found]:
  wrong = _wrong_keys(value)
  if wrong:
    problems.leave_out('keys', where, wrong)
    return
  identifier = value.get('id', value.get('_id', default_id))
  title = splitting.passage_title(
    value.get('title') or '', value.get('section') or ''
  )
  yield from _passages(
    str(identifier), title, value['text'], where, words, problems
  )


def _wrong_keys(value: Any) -> str | None:
  """What keeps a value from being a passage."""
  if not isinstance(value, dict):
    return f'found {value!r:.60}; expected an object'
  if 'text' not in value:
    return f'"text" is missing; found {sorted(value)[:8]}'
  for key in ('text', 'title', 'section'):
    found = value.get(key)
    if not isinstance(found, str) and not (key != 'text' and found is None):
      return f'"{key}" is {found!r:.60}; expected a string'
  for key in ('id', '_id'):
    if not isinstance(value.get(key, ''), str | int):
      return f'"{key}" is {value[key]!r:.60}; expected a string or an integer'
  return None


def _passages(
  identifier: str,
  title: str,
  text: str,
  where: str,
  words: int,
  problems: Problems,
) -> Iterator[Found]:
  """The passage as it is, or cut if it is much too long."""
  identifier, text, title = map(clean, (identifier, text, title))
  if not text:
    problems.leave_out('empty text', where, 'the passage has no text; left out')
    return
  if text.count(' ') + 1 <= _SLACK * words:
    yield where, Passage(identifier, title, text)
    return
  parts = splitting.split([Piece(Kind.TEXT, text)], title, words)
  for number, (_, part) in enumerate(parts):
    yield where, Passage(f'{identifier}#{number}', title, part)


def _kilt_passages(
  value: dict[str, Any], where: str, words: int, problems: Problems
) -> Iterator[Found]:
  identifier = value.get('wikipedia_id', value.get('_id', value.get('id')))
  title = value.get('wikipedia_title', value.get('title'))
  if not isinstance(identifier, str | int) or not isinstance(title, str):
    problems.leave_out(
      'keys',
      where,
      'a page whose "text" is a list needs "wikipedia_id" and '
      f'"wikipedia_title"; found {sorted(value)[:8]}',
    )
    return
  paragraphs = value['text']
  if not all(isinstance(paragraph, str) for paragraph in paragraphs):
    problems.leave_out('keys', where, '"text" must be a list of strings')
    return

  def pieces() -> Iterator[Piece]:
    for number, paragraph in enumerate(paragraphs):
      if number == 0 and paragraph.strip() == title.strip():
        continue  # KILT puts the title first
      section = _KILT_SECTION.match(paragraph)
      if section:
        yield Piece(Kind.HEADING, clean(section[1].replace(':', ' ')))
      else:
        yield Piece(Kind.TEXT, clean(_KILT_BULLET.sub('', paragraph)))

  number = -1
  for number, (whole, text) in enumerate(
    splitting.split(pieces(), clean(title), words)
  ):
    yield where, Passage(f'{clean(str(identifier))}#{number}', whole, text)
  if number < 0:
    problems.leave_out('empty text', where, f'the page {title!r} has no text')
