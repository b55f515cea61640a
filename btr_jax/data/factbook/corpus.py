"""The Factbook's entries packed into passages.

A passage holds fields of one section of one country, "Field: value." or
"Field - subfield: value; subfield: value.", about fifty words of them, so
that a question and a passage stay short enough for a small reader.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re

from btr_jax.data import records
from btr_jax.data.factbook import entries as entries_lib

TARGET_WORDS = 55
MAX_WORDS = 100
# Stands in for the limit of tokens, which is only known with a vocabulary:
# figures need more tokens per character than prose.
MAX_COST = 94.0
# "title:", "context:" and the end of the sequence.
_FRAME_COST = 7.0

_SENTENCE_END = re.compile(r'(?<=[a-z)\]"]{2}[.?!])\s+(?=[A-Z"(0-9])|(?<=;)\s+')
_COSTS = {
  re.compile('[a-z]'): 0.17,
  re.compile('[A-Z]'): 0.43,
  re.compile('[0-9]'): 0.05,
  re.compile(' '): 0.5,
  re.compile('[!-/:-@[-`{-~]'): 0.64,
  re.compile('[^ -~]'): 4.0,
}


@dataclasses.dataclass(frozen=True)
class Statement:
  """A piece of an entry: what one passage says about one field."""

  key: tuple[str, str]
  value: str
  starts_entry: bool


@dataclasses.dataclass(frozen=True)
class FactbookPassage:
  """A passage together with what it states, for judging retrieval."""

  passage: records.Passage
  country_code: str
  statements: tuple[Statement, ...]

  def states(self, key: tuple[str, str], answer: str) -> bool:
    """Whether the answer stands in this passage's value of that field."""
    return any(
      statement.key == key and answer in statement.value
      for statement in self.statements
    )


def build_passages(
  pages: Sequence[entries_lib.Page],
) -> list[FactbookPassage]:
  """Packs all pages. Ids are '<country code>-<number>' and stable."""
  passages = []
  for country, entries in pages:
    number = 0
    for section, group in _by_section(entries).items():
      title = f'{country.name}: {section}'
      for statements in pack(group, _cost(title)):
        passages.append(
          FactbookPassage(
            records.Passage(
              f'{country.code}-{number:03d}', title, render(statements)
            ),
            country.code,
            tuple(statements),
          )
        )
        number += 1
  return passages


def pack(
  entries: Sequence[entries_lib.Entry], title_cost: float = 0.0
) -> Iterator[list[Statement]]:
  """Groups statements into passages, in order, never mixing up a value.

  Args:
    entries: the entries of one section of one country.
    title_cost: estimated tokens of the title, which count as well.

  Yields:
    The statements of one passage after the other.
  """
  budget = MAX_COST - title_cost - _FRAME_COST
  current: list[Statement] = []
  for entry in entries:
    label = ' - '.join(filter(None, entry.key))
    room = budget - _cost(label)
    for part, value in enumerate(split_value(entry.value, room)):
      statement = Statement(entry.key, value, part == 0)
      text = render([*current, statement])
      if current and (len(text.split()) > TARGET_WORDS or _cost(text) > budget):
        yield current
        current = []
      current.append(statement)
  if current:
    yield current


def render(statements: list[Statement]) -> str:
  """Writes statements as text; subfields of one field share its name."""
  text = ''
  previous = None
  for statement in statements:
    field, subfield = statement.key
    if previous is not None and previous.key == statement.key:
      text += ' ' + statement.value
      continue
    if previous is not None and previous.key[0] == field and subfield:
      text = text.rstrip('.') + '; ' + subfield
    else:
      if text:
        text = text if text[-1] in '.?!' else text.rstrip(';,') + '.'
        text += ' '
      text += field + (f' - {subfield}' if subfield else '')
    text += ': ' + statement.value
    previous = statement
  return text if text[-1:] in '.?!' else text.rstrip(';,') + '.'


def split_value(value: str, budget: float) -> list[str]:
  """Splits a long value at sentences, else at commas, else at words."""
  if _cost(value) <= budget and len(value.split()) <= TARGET_WORDS:
    return [value]
  pieces = []
  for sentence in _SENTENCE_END.split(value):
    pieces += _shorten(sentence, budget)
  parts: list[str] = []
  for piece in pieces:
    joined = f'{parts[-1]} {piece}' if parts else piece
    if parts and (
      _cost(joined) <= budget and len(joined.split()) <= TARGET_WORDS
    ):
      parts[-1] = joined
    else:
      parts.append(piece)
  return parts


def _shorten(sentence: str, budget: float) -> list[str]:
  """Cuts a sentence that alone is too long into nearly equal pieces."""
  if _cost(sentence) <= budget and len(sentence.split()) <= MAX_WORDS:
    return [sentence]
  words = sentence.split()
  if len(words) < 2:
    return [sentence]
  middle = len(words) // 2
  # The comma nearest to the middle, else the middle.
  commas = [
    i + 1 for i, word in enumerate(words[:-1]) if word.endswith((',', ';'))
  ]
  cut = min(commas, key=lambda i: abs(i - middle), default=middle)
  if not len(words) // 4 <= cut <= len(words) - len(words) // 4:
    cut = middle
  cut = min(max(cut, 1), len(words) - 1)
  return _shorten(' '.join(words[:cut]), budget) + _shorten(
    ' '.join(words[cut:]), budget
  )


def _by_section(
  entries: Sequence[entries_lib.Entry],
) -> dict[str, list[entries_lib.Entry]]:
  sections: dict[str, list[entries_lib.Entry]] = {}
  for entry in entries:
    sections.setdefault(entry.section, []).append(entry)
  return sections


def _cost(text: str) -> float:
  """Roughly the tokens of `text` with a vocabulary of 4,096 pieces.

  Fitted to this corpus (standard deviation 9 tokens per passage): punctuation
  and capitals cost most, since names and figures fall into small pieces.
  """
  return sum(
    cost * len(pattern.findall(text)) for pattern, cost in _COSTS.items()
  )
