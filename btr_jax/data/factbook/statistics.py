"""Figures about the prepared files: recall, and lengths in tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from btr_jax.data import prompts, records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.retrieval import recall

RECALL_CUTOFFS = (1, 5, 8, 20)
_PERCENTILES = (50, 90, 95, 98, 99, 100)


def describe_split(
  found: Sequence[records.Record],
  vocabulary: vocabulary_lib.Vocabulary,
  search_texts: bool = True,
) -> dict[str, Any]:
  """Sizes, recall and lengths of one split.

  Args:
    found: its records, with passages that are judged already.
    vocabulary: counts the tokens.
    search_texts: whether to report, beside the recall of passages that state
      the very field, that of passages which hold the answer as a string (a
      search through all texts).
  """
  questions = [
    len(vocabulary.encode(prompts.format_question(record.question)))
    for record in found
  ]
  answers = [
    len(vocabulary.encode(prompts.format_answer(record.answers[0]))) + 1
    for record in found
  ]
  report = {
    'countries': len({record.extra['country'] for record in found}),
    'questions': len({(r.extra['country'], r.extra['field']) for r in found}),
    'records': len(found),
    'recall': _recalls(recall.judge(record) for record in found),
    'question_tokens': percentiles(questions),
    'answer_tokens': percentiles(answers),
  }
  if search_texts:
    report['recall_of_answer_string'] = _recalls(
      [
        recall.has_answer(record.answers, f'{c.title} {c.text}')
        for c in record.contexts
      ]
      for record in found
    )
  return report


def percentiles(values: Sequence[int]) -> dict[str, float]:
  """Mean and percentiles, by name."""
  found = np.percentile(values, _PERCENTILES)
  result = {f'p{p}': float(v) for p, v in zip(_PERCENTILES, found, strict=True)}
  return {'mean': round(float(np.mean(values)), 2), **result}


def _recalls(judgements) -> dict[str, float]:
  found = recall.recall_at_k(judgements, RECALL_CUTOFFS)
  return {str(k): round(value, 4) for k, value in found.items()}
