"""Which files the SeqIO tasks read: set by gin, or by `use`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
from typing import Any

from btr_jax.data.benchmarks import preparation, table

SUBFOLDER = 'tasks'


@dataclasses.dataclass(frozen=True)
class TaskFiles:
  """The files of one task.

  Attributes:
    task: a name of `table.BENCHMARKS`.
    questions: split -> file of questions; splits that are not read may be
      missing.
    passages: split -> file of retrieved passages; none for questions that
      hold their passages.
    corpus: where passages are looked up that are named by id only.
    vocabulary: SentencePiece model to tokenize with.
    extra_ids: sentinels behind its pieces; with none, questions and answers
      are written without (for readers that never saw them, as Flan-T5).
    num_passages: kept per question; None for the paper's number.
    strict: stop at the first line that cannot be used.
  """

  task: str
  questions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  passages: Mapping[str, str] = dataclasses.field(default_factory=dict)
  corpus: str | None = None
  vocabulary: str | None = None
  extra_ids: int = 100
  num_passages: int | None = None
  strict: bool = False

  def __post_init__(self):
    known = table.benchmark(self.task)
    for name in ('questions', 'passages'):
      for split in getattr(self, name):
        if split not in known.splits:
          raise ValueError(
            f'{name} of {self.task} name the split {split!r}; expected '
            f'{", ".join(known.splits)}.'
          )

  def describe(self) -> dict[str, Any]:
    """The names of the files, for the settings of a run."""
    return {
      'questions': {k: os.path.basename(v) for k, v in self.questions.items()},
      'passages': {k: os.path.basename(v) for k, v in self.passages.items()},
      'corpus': os.path.basename(self.corpus or '') or None,
      'num_passages': self.num_passages,
    }


_USED: dict[str, TaskFiles] = {}


def use(*files: TaskFiles) -> None:
  """Lets the tasks read these files from now on."""
  for one in files:
    _USED[one.task] = one


def of_task(task: str) -> TaskFiles:
  """The files of a task; one without any if none were set."""
  return _USED.get(task) or TaskFiles(task)


def inputs(task: str, split: str) -> preparation.Inputs:
  """What a split of a task is made of.

  Raises:
    ValueError: no file was set for it; says how, and where one is published.
  """
  files = of_task(task)
  if split not in files.questions:
    known = table.benchmark(task)
    raise ValueError(
      f'The task {task!r} has no file for the split {split!r}. Set it in gin: '
      f'--gin_file=gin_configs/data/{task}.gin --gin.QUESTIONS="{{{split!r}: '
      f"'FILE'}}\", or by btr_jax.data.benchmarks.task_files.use. Expected "
      f'{known.formats}. Published: {known.published}.'
    )
  return preparation.Inputs(
    task,
    files.questions[split],
    files.passages.get(split),
    files.corpus,
    files.num_passages,
    files.strict,
    training=split == 'train',
  )


def prepared(task: str, split: str) -> str:
  """The prepared file of a split, in $BTR_DATA_DIR or ~/.cache/btr_jax."""
  return preparation.prepared(inputs(task, split), default_folder())


def default_folder() -> str:
  """Where prepared files are kept."""
  given = os.environ.get('BTR_DATA_DIR') or '~/.cache/btr_jax'
  return str(pathlib.Path(given).expanduser() / SUBFOLDER)


def extra_ids(tasks: Iterable[str]) -> int:
  """Sentinels of the vocabulary that the files of these tasks name."""
  given = {
    of_task(task).extra_ids for task in tasks if of_task(task).vocabulary
  }
  if len(given) > 1:
    raise ValueError(
      f'The tasks name a vocabulary with {" and ".join(map(str, given))} extra '
      'ids; expected one number for all. Set EXTRA_IDS in gin.'
    )
  return next(iter(given), 100)


def vocabulary(tasks: Iterable[str]) -> str:
  """The vocabulary that the files of these tasks name.

  Raises:
    ValueError: none does, or they name different ones.
    FileNotFoundError: there is no such file.
  """
  named = {
    of_task(task).vocabulary for task in tasks if of_task(task).vocabulary
  }
  if len(named) != 1:
    found = 'none' if not named else ' and '.join(sorted(named))
    raise ValueError(
      f'The tasks name {found} as vocabulary; expected one SentencePiece model '
      'for all. Set it in gin: --gin.VOCABULARY="\'spiece.model\'" (published '
      'with the checkpoints of T5, google/t5-v1_1-base among them).'
    )
  (path,) = named
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'There is no vocabulary at {path}. Expected a SentencePiece model, such '
      'as the spiece.model that is published with the checkpoints of T5.'
    )
  return path
