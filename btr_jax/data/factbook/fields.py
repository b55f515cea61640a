"""The kinds of questions: which field, how it is asked, what answers it.

They stand in the tables of the modules `kinds_*`, in this format:

  name | field of the Factbook | its subfield, if any | extraction
    One way to ask?
    Another way, continued on a line
        that is indented further?

`<year>` as subfield stands for the newest of the subfields named by a year.
The extraction is a function of `extraction`. In a wording {c} stands for the
country as named inside a sentence, {year} for the year of the newest value.
"""

from collections.abc import Callable, Iterator
import dataclasses

from btr_jax.data.factbook import (
  extraction,
  kinds_economy,
  kinds_geography,
  kinds_government,
  kinds_networks,
  kinds_people,
)

NEWEST_YEAR = '<year>'
MIN_WORDINGS = 3

_CONTINUATION = ' ' * 6


@dataclasses.dataclass(frozen=True)
class FieldKind:
  """A kind of question.

  Attributes:
    name: short unique name; the "field" of a record.
    field: the field of the Factbook.
    subfield: its subfield, '' for none, NEWEST_YEAR for the newest year.
    extract: value -> answers, () for none.
    wordings: at least three ways to ask.
  """

  name: str
  field: str
  subfield: str
  extract: Callable[[str], extraction.Answers]
  wordings: tuple[str, ...]


def parse_table(table: str) -> Iterator[FieldKind]:
  """Reads the format described above.

  Raises:
    ValueError: a kind has too few wordings, no such extraction, a wording
      without country, or other than four columns; the message names it.
  """
  heading: str | None = None
  wordings: list[str] = []
  for line in _joined_lines(table):
    if line.startswith(' '):
      wordings.append(line.strip())
      continue
    if heading is not None:
      yield _kind(heading, wordings)
    heading, wordings = line, []
  if heading is not None:
    yield _kind(heading, wordings)


def _joined_lines(table: str) -> list[str]:
  lines: list[str] = []
  for line in table.splitlines():
    if line.startswith(_CONTINUATION):
      lines[-1] += ' ' + line.strip()
    elif line.strip():
      lines.append(line)
  return lines


def _kind(heading: str, wordings: list[str]) -> FieldKind:
  columns = [column.strip() for column in heading.split('|')]
  if len(columns) != 4:
    raise ValueError(
      f'{heading!r} has {len(columns)} columns; expected name | field | '
      'subfield | extraction.'
    )
  name, field, subfield, function = columns
  extract = getattr(extraction, function, None)
  if function.startswith('_') or not callable(extract):
    raise ValueError(
      f'Kind {name!r}: there is no extraction {function!r} in '
      'btr_jax/data/factbook/extraction.py.'
    )
  if len(set(wordings)) < MIN_WORDINGS:
    raise ValueError(
      f'Kind {name!r} has {len(set(wordings))} wordings; expected at least '
      f'{MIN_WORDINGS}.'
    )
  for wording in wordings:
    if '{c}' not in wording:
      raise ValueError(
        f'Kind {name!r}: the wording {wording!r} does not name the country; '
        'put {c} where it belongs.'
      )
  return FieldKind(name, field, subfield, extract, tuple(wordings))


FIELD_KINDS: tuple[FieldKind, ...] = tuple(
  kind
  for module in (
    kinds_geography,
    kinds_people,
    kinds_government,
    kinds_economy,
    kinds_networks,
  )
  for kind in parse_table(module.TABLE)
)
