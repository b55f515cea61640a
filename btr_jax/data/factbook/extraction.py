"""Short answers out of the Factbook's values.

Every function takes the cleaned value of an entry and returns the answers,
the first being a string that literally stands in the value, the others ways
of saying the same; or () where the value gives no short, clear answer.
"""

import re

Answers = tuple[str, ...]

_NUMBER = re.compile(
  r'-?\$?-?\d[\d,]*(?:\.\d+)?(?: (?:thousand|million|billion|trillion))?'
)
_DATE = re.compile(
  r'(?:\d{1,2}(?:-\d{1,2})? )?(?:January|February|March|April|May|June|July|'
  r'August|September|October|November|December)(?: \d{3,4})?\b'
)
_NOTHING = {'none', 'na', 'n/a', 'unknown', 'other', 'unspecified', 'nil'}
_TITLES = (
  'President',
  'Prime Minister',
  'King',
  'Queen',
  'Chancellor',
  'Premier',
  'Governor',
  'Governor-General',
  'Sultan',
  'Amir',
  'Crown Prince',
  'Grand Duke',
  'Prince',
)
MAX_WORDS = 7


def _head(value: str) -> str:
  """What stands before the first bracket or semicolon."""
  return re.split(r'\s*[(;]|; note|, note', value)[0].strip(' ,.')


def _unique(*answers: str) -> Answers:
  return tuple(dict.fromkeys(answer for answer in answers if answer))


def quantity(value: str) -> Answers:
  """'2,414 km (2012)' gives '2,414 km', also '2,414'."""
  head = _head(value)
  number = _NUMBER.match(head)
  if not number or len(head.split()) > MAX_WORDS:
    return ()
  rest = head[number.end() :]
  if re.search(r'\d', rest):  # a range, or several figures
    return ()
  figure = number.group()
  if rest.startswith('%'):
    return _unique(figure + '%', head, figure)
  if rest and not rest.startswith((' ', '/')):
    return ()
  return _unique(head, figure)


def number(value: str) -> Answers:
  """'56 deaths/100,000 live births' gives '56', also with its unit.

  For questions that name the unit themselves.
  """
  found = re.split(r'\s*[(;]', value)[0].strip()
  match = _NUMBER.match(found)
  if not match or len(found.split()) > MAX_WORDS:
    return ()
  rest = found[match.end() :]
  if rest and not rest.startswith((' ', '/')):
    return ()
  return _unique(match.group(), found)


def count(value: str) -> Answers:
  """'130 (all directly elected)' gives '130'."""
  match = re.match(r'\d[\d,]*(?= \(|$|;| \w+ \()', value)
  return (match.group(),) if match else ()


def phrase(value: str) -> Answers:
  """'unicameral' or 'red, white': the whole value without its remarks."""
  head = _head(value)
  if not head or len(head.split()) > MAX_WORDS:
    return ()
  return () if head.lower() in _NOTHING else (head,)


def name(value: str) -> Answers:
  """The first of the names in a list, without remarks in brackets."""
  head = re.split(r', |/| or | and ', _head(value))[0].strip()
  if not head or len(head.split()) > MAX_WORDS or head.lower() in _NOTHING:
    return ()
  return () if re.search(r'\d', head) else (head,)


def single_name(value: str) -> Answers:
  """A name only if it is the only one in the value."""
  head = _head(value)
  return name(value) if head and not re.search(r', |/|;', head) else ()


def demonym(value: str) -> Answers:
  """'Peruvian(s)' gives itself, also 'Peruvian' and 'Peruvians'."""
  head = re.split(r'[;,]| \(', value)[0].strip()
  if not re.fullmatch(r'[A-Z][\w\'\- ]+(?:\(\w+\))?', head):
    return ()
  if len(head.split()) > 3:
    return ()
  stem, bracket, ending = head.partition('(')
  if not bracket:
    return (head,)
  return _unique(head, stem, stem + ending.rstrip(')'))


def yes_or_no(value: str) -> Answers:
  match = re.match(r'(yes|no)\b', value)
  return (match.group(),) if match else ()


def date(value: str) -> Answers:
  """A value that starts with a date: '28 July 1821 (from Spain)'."""
  match = _DATE.match(value)
  return (match.group(),) if match else ()


def only_date(value: str) -> Answers:
  """A value that mentions exactly one day: 'Independence Day, 28 July'."""
  found = re.findall(rf'{_DATE.pattern}', value.split(';')[0])
  days = [item for item in found if re.match(r'\d', item)]
  return (days[0],) if len(days) == 1 else ()


def before_comma(value: str) -> Answers:
  """'Independence Day, 28-29 July (1821)' gives 'Independence Day'."""
  head = value.split(',')[0].split(' (')[0].strip()
  if not head or len(head.split()) > MAX_WORDS or re.search(r'\d|;', head):
    return ()
  return () if head.lower() in _NOTHING else (head,)


def summit_name(value: str) -> Answers:
  """'Nevado Huascaran 6,746 m' gives 'Nevado Huascaran'."""
  match = re.match(r'([A-Z][^\d,;(]*?),? -?\d[\d,.]* m\b', _head(value))
  if not match or len(match.group(1).split()) > MAX_WORDS:
    return ()
  return (match.group(1),)


def summit_height(value: str) -> Answers:
  """'Nevado Huascaran 6,746 m' gives '6,746 m', also '6,746'."""
  match = re.match(r'[A-Z][^\d,;(]*?,? (-?\d[\d,.]*) m\b', _head(value))
  return (match.group(1) + ' m', match.group(1)) if match else ()


def leading_share_name(value: str) -> Answers:
  """'Chile 60%, Netherlands 8%' gives 'Chile'."""
  match = re.match(r'([A-Z][^\d,;(%<~]*?) (\d[\d.]*)%', value)
  if not match or len(match.group(1).split()) > 4:
    return ()
  shares = [float(s) for s in re.findall(r'(\d+(?:\.\d+)?)%', value)]
  if float(match.group(2)) < max(shares):
    return ()
  return () if match.group(1).lower() in _NOTHING else (match.group(1),)


def leading_share(value: str) -> Answers:
  """'Chile 60%, Netherlands 8%' gives '60%', also '60'."""
  if not leading_share_name(value):
    return ()
  figure = re.search(r'(\d[\d.]*)%', value).group(1)
  return (figure + '%', figure)


def city_name(value: str) -> Answers:
  """'11.204 million LIMA (capital), ...' gives 'LIMA'."""
  match = re.match(
    r'\d[\d.,]*(?: million)? ([A-Z][^\d,;(]*?)(?= \(|,|;|$)', value
  )
  return (match.group(1),) if match else ()


def city_population(value: str) -> Answers:
  """'11.204 million LIMA (capital), ...' gives '11.204 million'."""
  match = re.match(r'(\d[\d.,]*(?: million)?) [A-Z]', value)
  return (match.group(1),) if match else ()


def quoted(value: str) -> Answers:
  """'"God Save the King"' gives what stands between the quotes."""
  match = re.match(r'"([^"]+)"', value)
  if not match or len(match.group(1).split()) > MAX_WORDS:
    return ()
  return (match.group(1).strip(' ,'),)


def office_holder(value: str) -> Answers:
  """'President Dina BOLUARTE (since ...)', also without the title."""
  head = re.split(r'\s*[(;,]', value)[0].strip()
  if not 1 < len(head.split()) <= MAX_WORDS or 'vacant' in value[:60].lower():
    return ()
  for title in sorted(_TITLES, key=len, reverse=True):
    if head.startswith(title + ' '):
      return _unique(head, head[len(title) + 1 :])
  return ()


def currency(value: str) -> Answers:
  """'nuevo sol (PEN) per US dollar' gives 'nuevo sol (PEN)' and its parts."""
  match = re.match(r'([A-Za-z\' \-]+?) \(([A-Z]{3})\)', value)
  if not match:
    return ()
  plain, code = match.groups()
  return (match.group(), plain, code)


def time_zone(value: str) -> Answers:
  match = re.match(r'UTC ?[+-]?\d*(?:\.\d+|:\d\d)?', value)
  return (match.group().strip(),) if match else ()


def coordinates(value: str) -> Answers:
  match = re.match(r'\d+ \d+ [NS], ?\d+ \d+ [EW]', value)
  return (match.group(),) if match else ()


def domain(value: str) -> Answers:
  """'.pe' gives itself, also 'pe'."""
  match = re.match(r'\.([a-z]{2})\b', value)
  return (match.group(), match.group(1)) if match else ()
