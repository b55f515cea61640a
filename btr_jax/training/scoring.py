"""Predicted tokens to answers, and their exact match and F1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from btr_jax.data import prompts
from btr_jax.evaluation import answer_metrics


def answer_text(tokens: np.ndarray, vocabulary: Any) -> str:
  """The answer that target tokens [length] spell, without the sentinel."""
  return prompts.parse_answer(vocabulary.decode(tokens.tolist()))


def make_scorer(
  vocabulary: Any,
) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
  """A function from (predicted, target) tokens to {'em', 'f1'} in per cent.

  The target of the batch is the one gold answer here; the evaluation tools
  score against all answers of a question.
  """

  def score(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    return answer_metrics.answer_scores(
      [answer_text(row, vocabulary) for row in predicted],
      [[answer_text(row, vocabulary)] for row in targets],
    )

  return score
