"""Training examples that cannot be answered from memory.

A small corpus is seen many times, and a reader that has seen a number often
enough states it without looking. `augment` changes training examples so that
only reading helps: digits are exchanged for others, the same way in question,
passages and answers, and the statements of a passage change places.
Evaluation examples are left as they are.
"""

from collections.abc import Callable
import re

import tensorflow as tf

from btr_jax.tasks import preprocessors, randomness

# Zero stays, so that '0.5' or '1,000' still look like numbers.
_DIGITS = '123456789'
_BETWEEN_STATEMENTS = re.compile(r'(?<=\.) (?=[A-Z])')

Draw = Callable[[int], int]


def digit_table(draw: Draw) -> dict[int, int]:
  """A random exchange of the digits 1 to 9, for `str.translate`."""
  return str.maketrans(_DIGITS, ''.join(randomness.shuffled(_DIGITS, draw)))


def shuffle_statements(text: str, draw: Draw) -> str:
  """The statements of a passage in another order."""
  statements = _BETWEEN_STATEMENTS.split(text)
  return ' '.join(randomness.shuffled(statements, draw))


def augment(
  dataset: tf.data.Dataset,
  digits_share: float = 0.6,
  order_share: float = 0.6,
) -> tf.data.Dataset:
  """Changes digits and the order of statements in training examples.

  Comes after `choose_passages` and before `choose_answer`.

  Args:
    dataset: examples with passages.
    digits_share: of the examples that get other digits.
    order_share: of the examples whose statements change places.

  Returns:
    Examples of the same structure.
  """

  def rewrite(question, answers, titles, texts, has_answer, seed):
    del titles, has_answer
    draw = randomness.generator(seed)
    question = question.decode()
    answers = [answer.decode() for answer in answers]
    texts = [text.decode() for text in texts]
    if draw(1000) < digits_share * 1000:
      table = digit_table(draw)
      question = question.translate(table)
      answers = [answer.translate(table) for answer in answers]
      texts = [text.translate(table) for text in texts]
    if draw(1000) < order_share * 1000:
      texts = [shuffle_statements(text, draw) for text in texts]
    return (
      question.encode(),
      [answer.encode() for answer in answers],
      [text.encode() for text in texts],
    )

  return preprocessors.rewrite_training(dataset, rewrite)
