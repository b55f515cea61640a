"""Training examples that cannot be answered from memory.

A small corpus is seen many times, and a reader that has seen a number often
enough states it without looking. `augment` changes training examples so that
only reading helps: digits are exchanged for others, the same way in question,
passages and answers, the statements of a passage change places, and what the
passages are about gets another name, so that names are compared and not known.
Evaluation examples are left as they are.
"""

from collections.abc import Callable, Mapping
import re

import tensorflow as tf

from btr_jax.tasks import preprocessors, randomness

# Zero stays, so that '0.5' or '1,000' still look like numbers.
_DIGITS = '123456789'
_CAPITALISED = re.compile(r'\b[A-Z][a-z]{3,}\b')
_BETWEEN_STATEMENTS = re.compile(r'(?<=\.) (?=[A-Z])')

Draw = Callable[[int], int]


def digit_table(draw: Draw) -> dict[int, int]:
  """A random exchange of the digits 1 to 9, for `str.translate`."""
  return str.maketrans(_DIGITS, ''.join(randomness.shuffled(_DIGITS, draw)))


def shuffle_statements(text: str, draw: Draw) -> str:
  """The statements of a passage in another order."""
  statements = _BETWEEN_STATEMENTS.split(text)
  return ' '.join(randomness.shuffled(statements, draw))


def name_table(
  titles: list[str], texts: list[str], draw: Draw
) -> dict[str, str]:
  """Another name for what each passage is about.

  A title names its subject before a colon ('Peru: Economy'). New names are one
  or two capitalised words of the passages; a quarter of them share a word with
  another new name, as Guinea and Guinea-Bissau do.

  Returns:
    From subject to new name; empty if the passages hold no capitalised word.
  """
  subjects = sorted({title.split(':')[0] for title in titles if title})
  words = sorted({word for t in texts for word in _CAPITALISED.findall(t)})
  if not words:
    return {}
  names: dict[str, str] = {}
  for subject in randomness.shuffled(subjects, draw):
    chosen = [words[draw(len(words))] for _ in range(1 + draw(2))]
    if names and not draw(4):
      others = list(names.values())
      chosen.append(others[draw(len(others))].split()[0])
    name = ' '.join(chosen)
    if name not in names.values():
      names[subject] = name
  return names


def rename(text: str, names: Mapping[str, str]) -> str:
  """The text with whole words exchanged, the longest name first."""
  if not names:
    return text
  longest_first = sorted(names, key=len, reverse=True)
  pattern = r'\b(?:' + '|'.join(map(re.escape, longest_first)) + r')(?!\w)'
  return re.sub(pattern, lambda match: names[match.group()], text)


def augment(
  dataset: tf.data.Dataset,
  digits_share: float = 0.6,
  order_share: float = 0.6,
  names_share: float = 0.5,
) -> tf.data.Dataset:
  """Changes digits, names and the order of statements in training examples.

  Comes after `choose_passages` and before `choose_answer`.

  Args:
    dataset: examples with passages.
    digits_share: of the examples that get other digits.
    order_share: of the examples whose statements change places.
    names_share: of the examples whose subjects get other names; 0 where
      titles do not name a subject before a colon.

  Returns:
    Examples of the same structure.
  """

  def rewrite(question, answers, titles, texts, has_answer, seed):
    del has_answer
    draw = randomness.generator(seed)
    question = question.decode()
    answers, titles, texts = (
      [part.decode() for part in parts] for parts in (answers, titles, texts)
    )
    if draw(1000) < digits_share * 1000:
      table = digit_table(draw)
      question = question.translate(table)
      answers = [answer.translate(table) for answer in answers]
      texts = [text.translate(table) for text in texts]
    if draw(1000) < order_share * 1000:
      texts = [shuffle_statements(text, draw) for text in texts]
    if draw(1000) < names_share * 1000:
      names = name_table(titles, texts, draw)
      question = rename(question, names)
      answers, titles, texts = (
        [rename(part, names) for part in parts]
        for parts in (answers, titles, texts)
      )
    changed = (answers, titles, texts)
    return (
      question.encode(),
      *([part.encode() for part in parts] for parts in changed),
    )

  return preprocessors.rewrite_training(dataset, rewrite)
