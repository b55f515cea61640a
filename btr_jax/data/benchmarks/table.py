"""The benchmarks by name: their formats, limits, metric and publishers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any

from btr_jax import config as config_lib
from btr_jax.data.benchmarks import fever, mmlu, open_qa
from btr_jax.data.records import Record


def _one_question(value: Any) -> Iterator[Any] | None:
  del value
  return None


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One public question set.

  Attributes:
    name: of the SeqIO task.
    parse: an object of a file, and the file's name, to a record.
    columns: names of the columns of files without a header, by their number.
    metric: what scores it; a name of `evaluation.task_metrics`.
    limits: tokens and passages, those of the paper (table 4).
    published: where its files are published, in words.
    formats: what they look like.
    expand: the questions of a value that is a whole document.
    splits: names of its splits; 'train' is trained on.
    sample_answer: in training, whether any of the answers may be the target.
  """

  name: str
  parse: Callable[[Mapping[str, Any], str], Record]
  columns: Mapping[int, tuple[str, ...]]
  metric: str
  limits: config_lib.InputLimits
  published: str
  formats: str
  expand: Callable[[Any], Iterator[Any] | None] = _one_question
  splits: tuple[str, ...] = ('train', 'validation', 'test')
  sample_answer: bool = False


def _limits(question_length: int = 40, num_passages: int = 40):
  return config_lib.InputLimits(
    question_length=question_length,
    passage_length=320,
    answer_length=32,
    num_passages=num_passages,
  )


def _open_qa(name, metric='squad', *, published, formats, question_length=40):
  return Benchmark(
    name,
    open_qa.parse,
    open_qa.COLUMNS,
    metric,
    _limits(question_length),
    published,
    formats,
    expand=open_qa.expand,
    sample_answer=True,
  )


BENCHMARKS = {
  benchmark.name: benchmark
  for benchmark in (
    _open_qa(
      'nq',
      published='NQ-open in google-research-datasets/natural-questions on '
      'GitHub; with passages by DPR, FiD and Atlas (facebookresearch)',
      formats='objects with "question" and "answer" (NQ-open) or "answers" '
      "(DPR, Atlas), or DPR's rows: question, list of answers",
    ),
    _open_qa(
      'triviaqa',
      'triviaqa',
      question_length=64,
      published='TriviaQA by the University of Washington '
      '(mandarjoshi90/triviaqa on GitHub), the unfiltered questions; with '
      'passages by DPR, FiD and Atlas (facebookresearch)',
      formats='TriviaQA\'s document with "Data", objects with "question" and '
      '"answers", or DPR\'s rows: question, list of answers',
    ),
    _open_qa(
      'webquestions',
      published='WebQuestions by Stanford NLP (SEMPRE); DPR '
      '(facebookresearch) has it as rows',
      formats='objects with "utterance" and "targetValue" (WebQuestions) or '
      '"question" and "answers", or DPR\'s rows: question, list of answers',
    ),
    _open_qa(
      'squad_open',
      published='SQuAD 1.1 in rajpurkar/SQuAD-explorer on GitHub',
      formats='SQuAD\'s document with "data", or objects with "question" and '
      '"answers"',
    ),
    Benchmark(
      'fever',
      fever.parse,
      fever.COLUMNS,
      'fever',
      _limits(),
      'the FEVER shared task of 2018 (train.jsonl, paper_dev.jsonl), or '
      'KILT (facebookresearch/KILT on GitHub)',
      'objects with "claim" and "label" (SUPPORTS, REFUTES, NOT ENOUGH INFO)',
    ),
    Benchmark(
      'mmlu',
      mmlu.parse,
      mmlu.COLUMNS,
      'mmlu',
      _limits(256, 30),
      'MMLU in hendrycks/test on GitHub (data.tar: the folders dev, val, test '
      'and auxiliary_train)',
      'a folder of CSV files by subject (question, A, B, C, D, answer), or '
      'objects with "subject", "question", "choices" and "answer"',
      # The five questions per subject that prompts are made of.
      splits=('train', 'validation', 'test', 'dev'),
    ),
  )
}


def benchmark(name: str) -> Benchmark:
  """The benchmark of a name.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in BENCHMARKS:
    raise ValueError(
      f'There is no benchmark {name!r}; expected one of '
      f'{", ".join(BENCHMARKS)}.'
    )
  return BENCHMARKS[name]
