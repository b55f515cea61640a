"""How often the answer is among the retrieved passages."""

from collections.abc import Iterable, Sequence

from btr_jax.data import records
from btr_jax.data import text as text_lib


def has_answer(answers: Iterable[str], text: str) -> bool:
  """Whether any answer stands in the text as a run of whole words.

  Both are normalised as SQuAD normalises answers, so case, punctuation and
  articles do not matter ("the 2,414 km" stands in "Coastline: 2414 km").

  Args:
    answers: strings that count as right; empty ones never match.
    text: a passage.
  """
  padded = f' {" ".join(text_lib.answer_tokens(text))} '
  for answer in answers:
    wanted = ' '.join(text_lib.answer_tokens(answer))
    if wanted and f' {wanted} ' in padded:
      return True
  return False


def judge(record: records.Record) -> list[bool]:
  """For each of the record's passages, whether it holds the answer.

  A judgement stored with the passage counts; without one the text is
  searched.
  """
  return [
    has_answer(record.answers, f'{context.title} {context.text}')
    if context.has_answer is None
    else context.has_answer
    for context in record.contexts
  ]


def recall_at_k(
  judgements: Iterable[Sequence[bool]], cutoffs: Sequence[int]
) -> dict[int, float]:
  """The share of questions with an answer in their first k passages.

  Args:
    judgements: per question, per retrieved passage (best first), whether it
      holds the answer.
    cutoffs: values of k.

  Returns:
    k -> recall in [0, 1].

  Raises:
    ValueError: there is no question, or a cutoff is not positive.
  """
  if any(k < 1 for k in cutoffs):
    raise ValueError(f'Cutoffs must be at least 1, found {list(cutoffs)}.')
  found = {k: 0 for k in cutoffs}
  total = 0
  for judgement in judgements:
    total += 1
    for k in cutoffs:
      found[k] += any(judgement[:k])
  if not total:
    raise ValueError('Recall needs at least one question, found none.')
  return {k: count / total for k, count in found.items()}
