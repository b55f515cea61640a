"""The strings that readers see."""

import pytest

from btr_jax.data import prompts


def test_formats_are_those_of_atlas():
  assert (
    prompts.format_question('  who is\n it?')
    == 'question: who is it? answer: <extra_id_0>'
  )
  assert (
    prompts.format_passage('T', 'some  text') == 'title: T context: some text'
  )
  assert prompts.format_answer(' Lima ') == '<extra_id_0> Lima'


def test_formats_without_a_sentinel():
  found = prompts.format_question('who is it?', sentinel=False)
  assert found == 'question: who is it? answer:'
  assert prompts.format_answer(' Lima ', sentinel=False) == 'Lima'


@pytest.mark.parametrize('question', ['', ' \n'])
def test_empty_question(question):
  with pytest.raises(ValueError, match='empty'):
    prompts.format_question(question)


@pytest.mark.parametrize(
  ('decoded', 'answer'),
  [
    ('<extra_id_0> Lima', 'Lima'),
    ('Lima', 'Lima'),
    ('<extra_id_0> Lima <extra_id_1> and', 'Lima'),
    ('noise <extra_id_0> 2,414 km', '2,414 km'),
    ('<extra_id_0>', ''),
    ('', ''),
  ],
)
def test_parse_answer(decoded, answer):
  assert prompts.parse_answer(decoded) == answer
