"""The Factbook as entries, passages and questions (the whole of it)."""

import collections

import pytest

from btr_jax.data.factbook import corpus, entries, questions


@pytest.fixture(scope='module')
def pages():
  return entries.load()


@pytest.fixture(scope='module')
def passages(pages):
  return corpus.build_passages(pages)


@pytest.fixture(scope='module')
def asked(pages, passages):
  return questions.build_questions(pages, passages)


def test_pages_have_names_and_clean_entries(pages):
  names = [country.name for country, _ in pages]
  assert len(names) == len(set(names)) == 256
  assert {'Peru', 'Dominican Republic', 'European Union'} <= set(names)
  for name in names:
    assert name.lower() != 'none' and not name.startswith(' ')
  for country, found in pages:
    keys = [entry.key for entry in found]
    assert len(keys) == len(set(keys)), country
    for entry in found:
      assert entry.value
      assert '&nbsp;' not in entry.value and '<br' not in entry.value
      assert 'est.) ;' not in entry.value


def test_names_in_sentences():
  def sentence(name):
    return entries.Country('xx', name).in_sentence

  assert sentence('Peru') == 'Peru'
  assert sentence('The Gambia') == 'the Gambia'
  assert sentence('United States') == 'the United States'
  assert sentence('Solomon Islands') == 'the Solomon Islands'
  assert sentence('Central African Republic') == 'the Central African Republic'


def test_fields_repeated_in_sections_are_kept_once(pages):
  (peru,) = [found for country, found in pages if country.code == 'pe']
  sections = [entry.section for entry in peru if entry.field == 'Climate']
  assert sections == ['Geography']


def test_labels_drop_what_the_field_says_already(pages):
  (peru,) = [found for country, found in pages if country.code == 'pe']
  values = {entry.key: entry.value for entry in peru}
  assert values['Exports', '2023'] == '$72.97 billion'
  assert values['Land use', 'arable land'].startswith('3.1%')
  assert values['Coastline', ''] == '2,414 km'


def test_page_without_a_name_is_refused():
  with pytest.raises(ValueError, match="page 'qq' names no country"):
    entries.display_name('qq', {'Government': {}})


def test_passages_are_short_and_titled(passages):
  assert len(passages) >= 10_000
  ids = {found.passage.id for found in passages}
  assert len(ids) == len(passages)
  words = [len(found.passage.text.split()) for found in passages]
  assert max(words) <= corpus.MAX_WORDS
  assert 30 <= sum(words) / len(words) <= 60
  assert all(': ' in found.passage.title for found in passages)


def test_no_word_of_a_value_is_lost_or_doubled(pages):
  for _, found in pages[::40]:
    for section in {entry.section for entry in found}:
      group = [entry for entry in found if entry.section == section]
      packed = collections.defaultdict(list)
      for statements in corpus.pack(group, 10.0):
        for statement in statements:
          packed[statement.key] += statement.value.split()
      for entry in group:
        assert packed[entry.key] == entry.value.split(), entry


def test_render_shares_the_name_of_the_field():
  statements = [
    corpus.Statement(('Area', 'total'), '9 sq km', True),
    corpus.Statement(('Area', 'land'), '8 sq km', True),
    corpus.Statement(('Coastline', ''), '5 km', True),
    corpus.Statement(('Note', ''), 'it is small;', True),
    corpus.Statement(('Note', ''), 'very small,', False),
  ]
  assert corpus.render(statements) == (
    'Area - total: 9 sq km; land: 8 sq km. Coastline: 5 km. '
    'Note: it is small; very small.'
  )


def test_long_values_are_split_at_sentences():
  value = ' '.join(f'This is sentence number {i} of some.' for i in range(30))
  parts = corpus.split_value(value, 60.0)
  assert len(parts) > 2
  assert ' '.join(parts) == value
  assert all(part.endswith('.') for part in parts)
  assert corpus.split_value('short', 60.0) == ['short']
  assert corpus.split_value('x' * 900, 60.0) == ['x' * 900]


def test_questions_are_many_and_their_answers_stand_in_the_passage(
  asked, passages
):
  assert len(asked) >= 8_000
  assert len({question.kind for question in asked}) >= 40
  assert len({question.id for question in asked}) == len(asked)
  by_id = {found.passage.id: found for found in passages}
  for question in asked:
    gold = by_id[question.gold]
    assert question.answers[0] in gold.passage.text
    assert gold.states(question.key, question.answers[0])
    assert gold.country_code == question.country.code
    assert question.country.code not in entries.AGGREGATES
    assert len(set(question.wordings)) == len(question.wordings) >= 3


def test_first_wordings_vary_within_a_kind(asked):
  capitals = [q for q in asked if q.kind == 'capital']
  starts = {q.wordings[0].split(' of ')[0] for q in capitals}
  assert len(starts) >= 3


def test_split_is_by_country_and_fixed(pages):
  countries = [c for c, _ in pages if c.code not in entries.AGGREGATES]
  split = questions.split_countries(countries)
  sizes = collections.Counter(split.values())
  assert sizes == {'train': 191, 'validation': 20, 'test': 43}
  assert split == questions.split_countries(countries[::-1])
  assert split != questions.split_countries(countries, seed=1)
  # Published figures depend on it.
  validation = sorted(code for code in split if split[code] == 'validation')
  assert validation[:5] == ['cb', 'cn', 'es', 'ez', 'fi']


def test_states_wants_the_field_and_the_answer(passages):
  found = next(
    p
    for p in passages
    if p.passage.title == 'Peru: Geography' and 'Coastline' in p.passage.text
  )
  assert found.states(('Coastline', ''), '2,414 km')
  assert not found.states(('Coastline', ''), '2,415 km')
  assert not found.states(('Area', 'total'), '2,414 km')
