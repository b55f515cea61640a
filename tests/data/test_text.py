"""SQuAD's normalisation, and HTML into plain lines."""

import pytest

from btr_jax.data import text


@pytest.mark.parametrize(
  ('raw', 'expected'),
  [
    ('The  Eiffel Tower!', 'eiffel tower'),
    ('an apple, a pear', 'apple pear'),
    ('2,414 km.', '2414 km'),
    ('theatre', 'theatre'),
    ('U.S.', 'us'),
    ('the', ''),
  ],
)
def test_normalize_answer_follows_squad(raw, expected):
  assert text.normalize_answer(raw) == expected


def test_answer_tokens_are_words():
  assert text.answer_tokens('The "Red" Sea') == ['red', 'sea']


@pytest.mark.parametrize(
  ('raw', 'expected'),
  [
    ('<p>one</p><p>two</p>', 'one; two'),
    ('first.<br><br>second', 'first. second'),
    ('a <strong>bold</strong> word', 'a bold word'),
    ('C&ocirc;te d&rsquo;Ivoire', "Côte d'Ivoire"),
    ('fish &amp;amp; chips', 'fish & chips'),
    ('English&nbsp; ', 'English'),
    ('5 < 6', '5 < 6'),
    ('', ''),
  ],
)
def test_strip_html(raw, expected):
  assert text.strip_html(raw) == expected


def test_fold_diacritics_keeps_other_letters():
  assert text.fold_diacritics('Côte São Łódź 菊') == 'Cote Sao Łodz 菊'
