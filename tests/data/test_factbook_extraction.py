"""Answers out of the Factbook's values."""

import pytest

from btr_jax.data.factbook import extraction, fields


@pytest.mark.parametrize(
  ('function', 'value', 'expected'),
  [
    ('quantity', '2,414 km', ('2,414 km', '2,414')),
    ('quantity', '0 km (landlocked)', ('0 km', '0')),
    ('quantity', '$48.003 billion (2021 est.)', ('$48.003 billion',)),
    ('quantity', '17% (of GDP) (2023 est.)', ('17%', '17')),
    ('quantity', '1.7% of GDP', ('1.7%', '1.7% of GDP', '1.7')),
    ('quantity', '-0.4%', ('-0.4%', '-0.4')),
    ('quantity', 'less than 1', ()),
    ('quantity', 'NA', ()),
    ('quantity', '3-5 years', ()),
    ('quantity', '12 nm, 24 nm', ()),
    (
      'number',
      '56 deaths/100,000 live births',
      ('56', '56 deaths/100,000 live births'),
    ),
    ('number', '0.97 male(s)/female (2024 est.)', ('0.97', '0.97 male')),
    ('number', 'none', ()),
    ('count', '130 (all directly elected)', ('130',)),
    ('count', '1,274 (2023)', ('1,274',)),
    ('count', 'about 30', ()),
    ('phrase', 'red, white', ('red, white',)),
    ('phrase', 'Diet (Landtag)', ('Diet',)),
    ('phrase', 'none', ()),
    ('name', 'copper ore, gold (2023)', ('copper ore',)),
    ('name', '3 things', ()),
    ('single_name', 'Lima', ('Lima',)),
    ('single_name', 'Lima; note - it is large', ('Lima',)),
    ('single_name', 'La Paz, Sucre', ()),
    ('demonym', 'Peruvian(s)', ('Peruvian(s)', 'Peruvian', 'Peruvians')),
    ('demonym', 'British', ('British',)),
    ('yes_or_no', 'no; except for ministers', ('no',)),
    ('yes_or_no', 'unknown', ()),
    ('date', '28 July 1821 (from Spain)', ('28 July 1821',)),
    ('date', 'none (territory)', ()),
    ('only_date', 'Independence Day, 28-29 July (1821)', ('28-29 July',)),
    ('only_date', '1 May and 2 May', ()),
    ('before_comma', 'Waitangi Day (a treaty), 6 May', ('Waitangi Day',)),
    ('summit_name', 'Nevado Huascaran 6,746 m', ('Nevado Huascaran',)),
    ('summit_height', 'As Sarawat range, 3,000 m', ('3,000 m', '3,000')),
    ('summit_height', 'unnamed elevation at some place', ()),
    ('leading_share_name', 'Chile 60%, Brazil 5% (2023)', ('Chile',)),
    ('leading_share_name', 'Chile 6%, Brazil 50%', ()),
    ('leading_share', 'Chile 60%, Brazil 5% (2023)', ('60%', '60')),
    ('leading_share', 'other', ()),
    ('city_name', '11.204 million LIMA (capital), 9,000 Ica', ('LIMA',)),
    ('city_population', '959,000 Arequipa (2023)', ('959,000',)),
    ('quoted', '"God Save the King" (an anthem)', ('God Save the King',)),
    ('quoted', 'God Save the King', ()),
    (
      'office_holder',
      'President Dina BOLUARTE (since 2022)',
      ('President Dina BOLUARTE', 'Dina BOLUARTE'),
    ),
    ('office_holder', 'President (vacant)', ()),
    (
      'currency',
      'nuevo sol (PEN) per US dollar',
      ('nuevo sol (PEN)', 'nuevo sol', 'PEN'),
    ),
    ('time_zone', 'UTC-5 (same time as Washington)', ('UTC-5',)),
    ('coordinates', '10 00 S, 76 00 W', ('10 00 S, 76 00 W',)),
    ('coordinates', 'near the pole', ()),
    ('domain', '.pe; note - also .com', ('.pe', 'pe')),
  ],
)
def test_extraction(function, value, expected):
  found = getattr(extraction, function)(value)
  assert found == expected
  assert not found or found[0] in value


def test_there_are_enough_kinds_and_wordings():
  kinds = fields.FIELD_KINDS
  assert len(kinds) >= 40
  assert len({kind.name for kind in kinds}) == len(kinds)
  for kind in kinds:
    assert len(set(kind.wordings)) >= 3
    for wording in kind.wordings:
      asked = wording.format(c='Peru', year='2023')
      assert 'Peru' in asked and '{' not in asked
      assert ('{year}' in wording) <= (kind.subfield == fields.NEWEST_YEAR)


GOOD = """\
area | Area | total | quantity
  How large is {c}?
  What is the area
      of {c}?
  Area of {c}?
"""


def test_table_is_parsed_with_continued_lines():
  (kind,) = fields.parse_table(GOOD)
  assert (kind.name, kind.field, kind.subfield) == ('area', 'Area', 'total')
  assert kind.extract is extraction.quantity
  assert kind.wordings[1] == 'What is the area of {c}?'


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('quantity', 'guess', "no extraction 'guess'"),
    ('quantity', '_head', "no extraction '_head'"),
    (' | total', '', '3 columns'),
    ('  Area of {c}?\n', '', '2 wordings'),
    ('Area of {c}?', 'Area of it?', 'does not name the country'),
  ],
)
def test_bad_tables_are_refused(old, new, message):
  with pytest.raises(ValueError, match=message):
    list(fields.parse_table(GOOD.replace(old, new)))
