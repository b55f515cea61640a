"""Exact match and F1 of short answers, by the rules of SQuAD or TriviaQA.

The reference is SQuAD 1.1's `evaluate-v1.1.py`: lower case, no punctuation,
no articles, single spaces; the best of all gold answers counts. TriviaQA's
script (`triviaqa_evaluation.py`) differs in what it normalises to,
`text.normalize_triviaqa_answer`; papers, BTR's among them, score TriviaQA by
SQuAD's rules.

Where an answer or a prediction has no words left, SQuAD 1.1 gives F1 0 even to
two empty ones; here, as in SQuAD 2.0, these two agree.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from btr_jax.data.text import normalize_answer

Normalize = Callable[[str], str]


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


def exact_match(
  prediction: str,
  answers: Sequence[str],
  normalize: Normalize = normalize_answer,
) -> float:
  """1.0 if the normalised prediction is one of the normalised answers.

  Args:
    prediction: the reader's answer.
    answers: gold answers, at least one.
    normalize: the rules; SQuAD's by default.

  Returns:
    0.0 or 1.0.

  Raises:
    TypeError: answers is a string.
    ValueError: answers is empty.
  """
  _check_answers(answers)
  wanted = normalize(prediction)
  return float(any(normalize(answer) == wanted for answer in answers))


def _f1_of_pair(prediction: str, answer: str, normalize: Normalize) -> float:
  predicted = normalize(prediction).split()
  expected = normalize(answer).split()
  if not predicted or not expected:
    return float(predicted == expected)
  common = collections.Counter(predicted) & collections.Counter(expected)
  same = sum(common.values())
  if not same:
    return 0.0
  precision = same / len(predicted)
  recall = same / len(expected)
  return 2 * precision * recall / (precision + recall)


def f1(
  prediction: str,
  answers: Sequence[str],
  normalize: Normalize = normalize_answer,
) -> float:
  """Word overlap of prediction and the best gold answer, 0.0 to 1.0.

  Args:
    prediction: the reader's answer.
    answers: gold answers, at least one.
    normalize: the rules; SQuAD's by default.

  Returns:
    The harmonic mean of precision and recall over words.

  Raises:
    TypeError: answers is a string.
    ValueError: answers is empty.
  """
  _check_answers(answers)
  return max(_f1_of_pair(prediction, answer, normalize) for answer in answers)


def answer_scores(
  predictions: Sequence[str],
  answer_lists: Sequence[Sequence[str]],
  normalize: Normalize = normalize_answer,
) -> dict[str, float]:
  """Mean exact match and F1 in per cent.

  Args:
    predictions: one answer per question.
    answer_lists: the gold answers of each question.
    normalize: the rules; SQuAD's by default.

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
    'em': 100.0
    * sum(exact_match(*pair, normalize) for pair in pairs)
    / len(pairs),
    'f1': 100.0 * sum(f1(*pair, normalize) for pair in pairs) / len(pairs),
  }
