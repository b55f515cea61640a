"""The strings that the reader sees, as in Atlas."""

from collections.abc import Sequence

LETTERS = 'ABCD'
SENTINEL = '<extra_id_0>'


def format_question(question: str, sentinel: bool = True) -> str:
  """'question: {q} answer: <extra_id_0>'.

  Raises:
    ValueError: the question is empty.
  """
  question = ' '.join(question.split())
  if not question:
    raise ValueError('The question is empty; expected some text.')
  text = f'question: {question} answer:'
  return f'{text} {SENTINEL}' if sentinel else text


def format_choices(question: str, choices: Sequence[str]) -> str:
  """'{q} options: (A) {a} (B) {b} (C) {c} (D) {d}', a question by itself.

  The options stand last, so that a question which is too long loses its
  beginning (`encoding.question_ids`) and keeps them.
  """
  options = ' '.join(
    f'({letter}) {choice}'
    for letter, choice in zip(LETTERS, choices, strict=True)
  )
  return f'{question} options: {options}'


def format_passage(title: str, text: str) -> str:
  """'title: {t} context: {c}'; eos follows as a token."""
  return ' '.join(f'title: {title} context: {text}'.split())


def format_answer(answer: str, sentinel: bool = True) -> str:
  """'<extra_id_0> {answer}'; eos follows as a token."""
  text = ' '.join(answer.split())
  return f'{SENTINEL} {text}' if sentinel else text


def parse_answer(text: str) -> str:
  """The answer in decoded text: what follows the first sentinel, if any."""
  if SENTINEL in text:
    text = text.split(SENTINEL, 1)[1]
  return text.split('<extra_id_')[0].strip()
