"""Exact match and F1 of short answers, by the rules of SQuAD.

The reference is SQuAD 1.1's `evaluate-v1.1.py`: lower case, no punctuation,
no articles, single spaces; the best of all gold answers counts.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from btr_jax.data.text import normalize_answer


def _check_answers(answers: Sequence[str]) -> None:
  if isinstance(answers, str):
    # A string is a sequence of strings: every letter would be an answer.
    raise TypeError(
      f'answers is the string {answers!r}; expected a list of gold answers, '
      f'such as [{answers!r}].'
    )
  if not answers:
    raise ValueError(
      'answers is empty; a question without a gold answer cannot be scored. '
      'Drop it, or give it an answer.'
    )


def exact_match(prediction: str, answers: Sequence[str]) -> float:
  """1.0 if the normalised prediction is one of the normalised answers.

  Args:
    prediction: the reader's answer.
    answers: gold answers, at least one.

  Returns:
    0.0 or 1.0.

  Raises:
    TypeError: answers is a string.
    ValueError: answers is empty.
  """
  _check_answers(answers)
  wanted = normalize_answer(prediction)
  return float(any(normalize_answer(answer) == wanted for answer in answers))


def _f1_of_pair(prediction: str, answer: str) -> float:
  predicted = normalize_answer(prediction).split()
  expected = normalize_answer(answer).split()
  if not predicted or not expected:
    return float(predicted == expected)
  common = collections.Counter(predicted) & collections.Counter(expected)
  same = sum(common.values())
  if not same:
    return 0.0
  precision = same / len(predicted)
  recall = same / len(expected)
  return 2 * precision * recall / (precision + recall)


def f1(prediction: str, answers: Sequence[str]) -> float:
  """Word overlap of prediction and the best gold answer, 0.0 to 1.0.

  Args:
    prediction: the reader's answer.
    answers: gold answers, at least one.

  Returns:
    The harmonic mean of precision and recall over words.

  Raises:
    TypeError: answers is a string.
    ValueError: answers is empty.
  """
  _check_answers(answers)
  return max(_f1_of_pair(prediction, answer) for answer in answers)


def answer_scores(
  predictions: Sequence[str], answer_lists: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Mean exact match and F1 in per cent.

  Args:
    predictions: one answer per question.
    answer_lists: the gold answers of each question.

  Returns:
    `{'em': ..., 'f1': ...}`, 0 to 100.

  Raises:
    ValueError: no question, or lists of different lengths.
  """
  if len(predictions) != len(answer_lists):
    raise ValueError(
      f'{len(predictions)} predictions for {len(answer_lists)} questions; '
      'expected as many of one as of the other.'
    )
  if not predictions:
    raise ValueError('No question to score; expected at least one.')
  pairs = list(zip(predictions, answer_lists, strict=True))
  return {
    'em': 100.0 * sum(exact_match(*pair) for pair in pairs) / len(pairs),
    'f1': 100.0 * sum(f1(*pair) for pair in pairs) / len(pairs),
  }
