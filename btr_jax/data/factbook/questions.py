"""Questions about the Factbook, split by country.

A country stands in one split only, so that a reader cannot remember the
answers of validation and test questions from training.
"""

from collections.abc import Sequence
import dataclasses
import hashlib

from btr_jax.data.factbook import corpus, fields
from btr_jax.data.factbook import entries as entries_lib

SPLITS = ('train', 'validation', 'test')
_VALIDATION_SHARE = 0.08
_TEST_SHARE = 0.17


@dataclasses.dataclass(frozen=True)
class Question:
  """One (country, field): all wordings and where the answer stands.

  Attributes:
    id: '<country code>-<field kind>'.
    kind: name of the field kind.
    country: whom it is about.
    wordings: full questions; the first one is this question's own wording
      in validation and test.
    answers: the first one literally stands in the gold passage.
    key: the (field, subfield) that holds the answer.
    gold: id of the passage that states it.
  """

  id: str
  kind: str
  country: entries_lib.Country
  wordings: tuple[str, ...]
  answers: tuple[str, ...]
  key: tuple[str, str]
  gold: str


def split_countries(
  countries: Sequence[entries_lib.Country], seed: int = 0
) -> dict[str, str]:
  """Assigns each country a split by the rank of a hash of its code.

  Args:
    countries: all countries that questions are asked about.
    seed: another seed gives another split.

  Returns:
    country code -> 'train', 'validation' (8 %) or 'test' (17 %).
  """
  ranked = sorted(countries, key=lambda c: _hash(f'{seed}:{c.code}'))
  num_validation = max(1, round(_VALIDATION_SHARE * len(ranked)))
  num_test = max(1, round(_TEST_SHARE * len(ranked)))
  result = {}
  for rank, country in enumerate(ranked):
    if rank < num_validation:
      result[country.code] = 'validation'
    elif rank < num_validation + num_test:
      result[country.code] = 'test'
    else:
      result[country.code] = 'train'
  return result


def build_questions(
  pages: Sequence[entries_lib.Page],
  passages: Sequence[corpus.FactbookPassage],
) -> list[Question]:
  """All questions about all countries, in the order of the pages.

  Left out are values without a short, clear answer, and answers that were
  cut in two where a long value was split into passages.
  """
  stating: dict[tuple, list[corpus.FactbookPassage]] = {}
  for passage in passages:
    for key in dict.fromkeys(s.key for s in passage.statements):
      stating.setdefault((passage.country_code, *key), []).append(passage)
  questions = []
  for country, entries in pages:
    if country.code in entries_lib.AGGREGATES:
      continue
    by_field: dict[str, dict[str, str]] = {}
    for entry in entries:
      by_field.setdefault(entry.field, {})[entry.subfield] = entry.value
    for kind in fields.FIELD_KINDS:
      question = _ask(country, kind, by_field.get(kind.field, {}), stating)
      if question is not None:
        questions.append(question)
  return questions


def _ask(country, kind, values, stating) -> Question | None:
  subfield = kind.subfield
  if subfield == fields.NEWEST_YEAR:
    subfield = max((name for name in values if name.isdigit()), default=None)
  if subfield not in values:
    return None
  answers = kind.extract(values[subfield])
  if not answers:
    return None
  key = (kind.field, subfield)
  candidates = stating.get((country.code, *key), [])
  gold = [p.passage.id for p in candidates if p.states(key, answers[0])]
  if not gold:
    return None
  identifier = f'{country.code}-{kind.name}'
  start = _hash(identifier) % len(kind.wordings)
  # Each question has its own first wording, so that a split that uses only
  # the first ones still sees all of a kind's wordings.
  wordings = kind.wordings[start:] + kind.wordings[:start]
  return Question(
    id=identifier,
    kind=kind.name,
    country=country,
    wordings=tuple(
      wording.format(c=country.in_sentence, year=subfield)
      for wording in wordings
    ),
    answers=answers,
    key=key,
    gold=gold[0],
  )


def _hash(text: str) -> int:
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big')
