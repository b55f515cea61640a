"""Short windows of passages, to train on: one that answers, one that does not.

A reader learns little per minute from many whole passages. For each question
two windows of a few words are cut, one around an answer out of a retrieved
passage, one out of a passage without any, in random order (after the warm-up
of the Factbook, `tasks/warmup.py`). Only answers that stand in the window are
kept: aliases that no passage holds cannot be read from one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses

import numpy as np

from btr_jax.data import records


def _cut(words, start, size):
  return ' '.join(words[start : start + size])


def around(
  text: str, answer: str, size: int, rng: np.random.Generator
) -> str | None:
  """A window of `size` words that holds the answer somewhere; None if the text
  has no such window."""
  words = text.split()
  place = text.lower().find(answer.lower())
  if place < 0:
    return None
  first = len(text[:place].split())
  last = first + len(answer.split())
  lowest = max(0, last - size)
  highest = max(lowest, min(first, len(words) - size))
  window = _cut(words, int(rng.integers(lowest, highest + 1)), size)
  return window if answer.lower() in window.lower() else None


def anywhere(text: str, size: int, rng: np.random.Generator) -> str:
  """A window of `size` words, or the whole text if it is shorter."""
  words = text.split()
  return _cut(words, int(rng.integers(0, max(1, len(words) - size + 1))), size)


def draw(
  found: Iterable[records.Record], size: int, retrieved: int, seed: int
) -> Iterator[records.Record]:
  """Records of two windows each.

  Args:
    found: questions with retrieved passages that tell `has_answer`.
    size: words of a window.
    retrieved: the answer must stand in one of so many first passages.
    seed: of all that is drawn; the same for the same records.

  Yields:
    A record for each question that has both kinds of passages.
  """
  rng = np.random.default_rng(seed)
  for record in found:
    right = [c for c in record.contexts[:retrieved] if c.has_answer]
    wrong = [c for c in record.contexts if c.has_answer is False]
    if not right or not wrong:
      continue
    text = right[0].text
    answers = [a for a in record.answers if a and a.lower() in text.lower()]
    if not answers:
      continue
    window = around(text, answers[0], size, rng)
    if window is None:
      continue
    other = wrong[int(rng.integers(len(wrong)))]
    contexts = [
      dataclasses.replace(right[0], text=window),
      dataclasses.replace(other, text=anywhere(other.text, size, rng)),
    ]
    if rng.integers(2):
      contexts.reverse()
    kept = tuple(a for a in answers if a.lower() in window.lower())
    yield dataclasses.replace(record, answers=kept, contexts=tuple(contexts))
