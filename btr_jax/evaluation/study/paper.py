"""The paper's own figures (Cao et al., ICLR 2024), to stand beside ours.

They are of its readers (220 million parameters unless told), its corpus of
32.1 million passages, 40 passages per question (MMLU: 30) and an A100: never
to be put into one column, or one curve, with figures measured here.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
  """A system in its main table.

  Attributes:
    score: exact match or accuracy, in per cent.
    kept: of Atlas of the same size, in per cent; BTR-BERT's of BERT.
    speedup: over Atlas of the same size.
    questions_per_second: table 6; None where it is not told.
  """

  score: float | None
  kept: int | None
  speedup: float | None
  questions_per_second: float | None = None


TASKS = ('nq', 'triviaqa', 'webquestions', 'fever', 'mmlu')
# Shown beside tasks that the paper does not have.
NEAREST = 'nq'


def _scores(*rows: tuple[int | float | None, ...]) -> dict[str, Score]:
  """Figures in the order of TASKS; the last may be missing."""
  return {
    task: Score(*row) for task, row in zip(TASKS, rows, strict=False) if row
  }


# Tables 1 and 6, base; table 2 for BERT (of its speed the text says "over 3x").
MAIN = {
  'Atlas': _scores(
    (52.1, 100, 1.0, 10.2),
    (69.3, 100, 1.0, 8.4),
    (46.4, 100, 1.0, 9.5),
    (72.9, 100, 1.0, 10.5),
    (38.6, 100, 1.0, 5.2),
  ),
  'Atlas-Q': _scores(
    (51.8, 99, 1.2, 12.5),
    (68.5, 99, 1.3, 13.2),
    (45.1, 97, 1.1, 11.2),
    (70.4, 97, 1.1, 11.8),
    (37.8, 98, 1.2, 6.4),
  ),
  'DeFormer': _scores(
    (51.4, 99, 2.2, 22.4),
    (68.0, 98, 2.0, 16.7),
    (44.8, 97, 2.0, 18.8),
    (71.8, 98, 2.3, 24.6),
    (33.9, 88, 1.8, 9.6),
  ),
  'DensePhrases': _scores(
    (40.9, 79, 4.9, 50.4), (53.6, 77, 5.8, 48.5), (37.5, 81, 5.1, 48.1)
  ),
  'LLaMA2-7B': _scores(
    (47.8, 92, 0.1, 1.2),
    (74.3, 108, 0.1, 0.8),
    (51.2, 110, 0.1, 1.3),
    (76.3, 105, 0.1, 1.2),
    (51.2, 133, 0.1, 0.5),
  ),
  'BTR': _scores(
    (49.5, 95, 3.1, 31.5),
    (66.7, 96, 2.5, 21.4),
    (43.8, 94, 2.6, 25.1),
    (70.2, 96, 3.1, 32.1),
    (35.4, 92, 2.6, 13.4),
  ),
  'BERT': _scores((42.9, 100, 1.0), (57.1, 100, 1.0), (43.1, 100, 1.0)),
  'BTR-BERT': _scores((39.8, 93, None), (54.1, 95, None), (None, 92, None)),
}
# Table 3: NQ, base. Exact match, questions per second, GB.
ABLATIONS = {
  'joint': (52.1, 10.2, 0.0),
  'full': (49.5, 31.5, 127.0),
  'bits': (50.8, 32.3, 12804.0),
  'offline': (49.8, 31.5, 159.0),
  'intra': (50.0, 28.1, 127.0),
  'cross': (49.9, 24.6, 127.0),
  'no-recovery': (47.4, 31.5, 127.0),
  'no-distillation': (48.2, 31.5, 127.0),
}
# Table 8: passages -> Atlas EM, BTR EM, speed-up.
PASSAGES = {
  5: (41.1, 38.9, 2.9),
  10: (43.5, 41.9, 3.2),
  20: (46.1, 43.8, 3.4),
  30: (47.2, 45.4, 3.3),
  40: (52.1, 49.5, 3.1),
}
# Table 9a: ratio -> GB, EM.
OFFLINE = {
  0.05: (151.0, 50.2),
  0.1: (143.0, 49.8),
  0.15: (135.0, 49.6),
  0.2: (127.0, 49.5),
  0.25: (119.0, 48.2),
  0.3: (111.0, 47.1),
  0.35: (103.0, 46.2),
  0.4: (95.0, 43.5),
  0.45: (87.0, 38.4),
  0.5: (80.0, 32.1),
}
# Table 9b: ratio -> EM, questions per second.
RUNTIME = {
  0.05: (50.1, 28.5),
  0.1: (49.8, 29.2),
  0.15: (49.6, 30.4),
  0.2: (49.5, 31.5),
  0.25: (48.7, 32.2),
  0.3: (47.6, 34.4),
  0.35: (45.2, 35.6),
  0.4: (43.2, 37.5),
  0.45: (40.6, 38.9),
  0.5: (38.1, 41.2),
}


def task_shown(task: str) -> str:
  """The paper's task whose figures stand beside those of `task`."""
  return task if task in TASKS else NEAREST
