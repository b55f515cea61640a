"""The metric of each task: how its answers are found, and how scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

from btr_jax.data import text as text_lib
from btr_jax.data.records import Record
from btr_jax.evaluation import answer_metrics, classification

Score = Callable[[Sequence[str], Sequence[Record]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TaskMetric:
  """How one kind of task is scored.

  Attributes:
    name: in METRICS.
    score: (answers, records with gold answers) to named values in per cent.
    headline: the value that systems are compared by.
    shown: values that a table has room for.
    letters: whether the answer is the letter with the highest logit, in place
      of what the decoder writes.
    in_passages: whether answers stand in passages, so that recall of
      retrieval can be told.
  """

  name: str
  score: Score
  headline: str
  shown: tuple[str, ...]
  letters: bool = False
  in_passages: bool = False


def squad_scores(
  predictions: Sequence[str], records: Sequence[Record]
) -> dict[str, float]:
  """Exact match and F1 by SQuAD's rules, against all answers."""
  return answer_metrics.answer_scores(
    predictions, [record.answers for record in records]
  )


def triviaqa_scores(
  predictions: Sequence[str], records: Sequence[Record]
) -> dict[str, float]:
  """By SQuAD's rules, as papers report them, and by TriviaQA's own."""
  own = answer_metrics.answer_scores(
    predictions,
    [record.answers for record in records],
    text_lib.normalize_triviaqa_answer,
  )
  return squad_scores(predictions, records) | {
    f'{name}_triviaqa': value for name, value in own.items()
  }


METRICS = {
  metric.name: metric
  for metric in (
    TaskMetric('squad', squad_scores, 'em', ('em', 'f1'), in_passages=True),
    TaskMetric(
      'triviaqa',
      triviaqa_scores,
      'em',
      ('em', 'f1', 'em_triviaqa', 'f1_triviaqa'),
      in_passages=True,
    ),
    TaskMetric(
      'fever',
      classification.fever_scores,
      'accuracy',
      (
        'accuracy',
        'accuracy_supports',
        'accuracy_refutes',
        'accuracy_not_enough_info',
      ),
    ),
    TaskMetric(
      'mmlu',
      classification.mmlu_scores,
      'accuracy',
      (
        'accuracy',
        'accuracy_stem',
        'accuracy_humanities',
        'accuracy_social_sciences',
        'accuracy_other',
      ),
      letters=True,
    ),
  )
}
SQUAD = METRICS['squad']


def metric(name: str) -> TaskMetric:
  """The metric of a name.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in METRICS:
    raise ValueError(
      f'There is no metric {name!r}; expected one of {", ".join(METRICS)}.'
    )
  return METRICS[name]
