"""Accuracy where answers are labels: FEVER's words, MMLU's letters."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from btr_jax.data.benchmarks import fever, mmlu_subjects
from btr_jax.data.records import Record


def _check(predictions: Sequence[str], records: Sequence[Record]) -> None:
  if len(predictions) != len(records):
    raise ValueError(
      f'{len(predictions)} predictions for {len(records)} questions; expected '
      'as many of one as of the other.'
    )
  if not records:
    raise ValueError('No question to score; expected at least one.')


def _accuracies(
  predictions: Sequence[str],
  records: Sequence[Record],
  group_of: Callable[[Record], str | None],
) -> tuple[float, dict[str, float]]:
  """Accuracy of all in per cent, and of each group; None is in no group."""
  _check(predictions, records)
  right: collections.Counter[str | None] = collections.Counter()
  total: collections.Counter[str | None] = collections.Counter()
  hits = 0
  for prediction, record in zip(predictions, records, strict=True):
    if len(record.answers) != 1:
      raise ValueError(
        f'The question {record.id!r} has the answers {record.answers!r}; '
        'expected one label.'
      )
    hit = prediction.strip().lower() == record.answers[0].lower()
    group = group_of(record)
    hits += hit
    right[group] += hit
    total[group] += 1
  return 100.0 * hits / len(records), {
    group: 100.0 * right[group] / total[group]
    for group in total
    if group is not None
  }


def fever_scores(
  predictions: Sequence[str], records: Sequence[Record]
) -> dict[str, float]:
  """Accuracy over three labels, and within each.

  A prediction counts only as one of the three words true, false and maybe;
  spaces around it and its case do not matter. How many were none of them is
  told as `other_words`.

  Args:
    predictions: what the reader said.
    records: claims with the word of their label.

  Returns:
    `accuracy`, `accuracy_supports`, `accuracy_refutes`,
    `accuracy_not_enough_info` (those that occur) and `other_words`, all in
    per cent.

  Raises:
    ValueError: no claim, or lists of different lengths.
  """
  names = {
    word: label.lower().replace(' ', '_') for label, word in fever.WORDS.items()
  }
  accuracy, by_class = _accuracies(
    predictions, records, lambda record: names.get(record.answers[0])
  )
  other = sum(p.strip().lower() not in names for p in predictions)
  return {
    'accuracy': accuracy,
    **{
      f'accuracy_{name}': by_class[name]
      for name in names.values()
      if name in by_class
    },
    'other_words': 100.0 * other / len(predictions),
  }


def mmlu_scores(
  predictions: Sequence[str], records: Sequence[Record]
) -> dict[str, float]:
  """Accuracy over all questions, and within each group of subjects.

  Args:
    predictions: letters.
    records: questions with the letter of the right choice, and their subject
      in `extra`.

  Returns:
    `accuracy` (of all questions alike, as the paper has it),
    `accuracy_subject_mean` (of the subjects' accuracies), and
    `accuracy_stem`, `accuracy_humanities`, `accuracy_social_sciences`,
    `accuracy_other` (those that occur), in per cent.

  Raises:
    ValueError: no question, or lists of different lengths.
  """
  groups = mmlu_subjects.GROUPS

  def subject(record: Record) -> str:
    return record.extra.get('subject') or mmlu_subjects.AUXILIARY

  accuracy, by_group = _accuracies(
    predictions, records, lambda record: groups.get(subject(record))
  )
  _, by_subject = _accuracies(predictions, records, subject)
  return {
    'accuracy': accuracy,
    'accuracy_subject_mean': sum(by_subject.values()) / len(by_subject),
    **{
      f'accuracy_{group}': by_group[group]
      for group in dict.fromkeys(groups.values())
      if group in by_group
    },
  }
