"""Public files into one file of records per split, in DPR's format.

A prepared file has one question with its passages in full per line, so that
training can read any of them in any order, with memory for their places only.
It is made when a split is first read, and made anew when an input changes.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

from btr_jax.data import records
from btr_jax.data.benchmarks import (
  contexts,
  corpora,
  files,
  questions,
  retrieved,
  rows,
  table,
)
from btr_jax.data.problems import Problems

FORMAT_VERSION = 1
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What one split is made of.

  Attributes:
    benchmark: a name of `table.BENCHMARKS`.
    questions: file of the questions; for MMLU also a folder of CSV files.
    passages: file of retrieved passages, unless the questions hold them.
    corpus: where passages are looked up that are named by id only.
    num_passages: how many are kept per question; None for the paper's.
    strict: stop at the first line that cannot be used.
    training: leave questions out that have no passages; in evaluation they
      stay, and count as they are answered.
  """

  benchmark: str
  questions: str
  passages: str | None = None
  corpus: str | None = None
  num_passages: int | None = None
  strict: bool = False
  training: bool = False

  def identity(self) -> dict[str, Any]:
    """What a prepared file depends on, as JSON values."""
    values = dataclasses.asdict(self)
    for key in ('questions', 'passages', 'corpus'):
      if values[key]:
        values[key] = [
          [os.path.abspath(path), status.st_size, status.st_mtime_ns]
          for path in questions.files_of(values[key])
          for status in (os.stat(path),)
        ]
    return values | {'format_version': FORMAT_VERSION}


@dataclasses.dataclass(frozen=True)
class Report:
  """What preparing found.

  Attributes:
    questions: how many were written.
    with_passages: how many of them have passages.
    passages: how many passages were written in all.
    problems: per input file, see `Problems.to_dict`.
  """

  questions: int
  with_passages: int
  passages: int
  problems: list[dict[str, Any]]

  def messages(self) -> list[str]:
    """All problems, for people."""
    return [line for file in self.problems for line in file['messages']]

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def check_exists(inputs: Inputs) -> None:
  """Refuses inputs that are not there, saying what they would be.

  Raises:
    FileNotFoundError: names the file, its format, and where it is published.
  """
  known = table.benchmark(inputs.benchmark)
  if not os.path.exists(inputs.questions):
    raise FileNotFoundError(
      f'There are no questions of {known.name} at {inputs.questions}. Expected '
      f'{known.formats}; as {", ".join(files.FORMATS)}, maybe compressed. '
      f'Published: {known.published}.'
    )
  if inputs.passages and not os.path.exists(inputs.passages):
    raise FileNotFoundError(
      f'There are no retrieved passages at {inputs.passages}. Expected objects '
      'with "id" or "question" and "ctxs" as `btr retrieve` and DPR write '
      'them, or rows of TSV under the header qid, passage_ids, scores.'
    )
  if inputs.corpus and not os.path.exists(inputs.corpus):
    raise FileNotFoundError(
      f'There is no corpus at {inputs.corpus}. Expected rows of TSV (id, text, '
      'title: psgs_w100.tsv of DPR, facebookresearch) or objects with "id", '
      '"title" and "text".'
    )


def prepare(inputs: Inputs, path: str | os.PathLike) -> Report:
  """Writes the records of one split.

  Args:
    inputs: what they are made of.
    path: the file to write, aside and then renamed. Beside it a report of
      the same name with .report.json is written last.

  Returns:
    What was found.

  Raises:
    FileNotFoundError: an input is missing.
    ValueError: an input cannot be read, holds nothing that can be used, does
      not fit the questions, or has a problem and `strict` is set.
  """
  check_exists(inputs)
  path = os.fspath(path)
  found = {
    name: Problems(getattr(inputs, name), inputs.strict)
    for name in ('questions', 'passages', 'corpus')
    if getattr(inputs, name)
  }
  counts = {'questions': 0, 'with_passages': 0, 'passages': 0}

  def counted(joined: Iterator[records.Record]) -> Iterator[dict[str, Any]]:
    for record in joined:
      counts['questions'] += 1
      counts['with_passages'] += bool(record.contexts)
      counts['passages'] += len(record.contexts)
      yield records.record_to_json(record)

  with contextlib.ExitStack() as stack:
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    find = _finder(inputs, found, folder, stack)
    records.write_json_lines(
      path, counted(_checked(_join(inputs, found, find), inputs, found))
    )
  report = Report(
    **counts, problems=[problems.to_dict() for problems in found.values()]
  )
  records.write_json(report_path(path), report.to_dict())
  return report


def report_path(path: str) -> str:
  """Where the report of a prepared file is."""
  return f'{path.removesuffix(".jsonl")}.report.json'


def read_report(path: str) -> Report:
  """The report of a prepared file."""
  with open(report_path(path), encoding='utf-8') as file:
    return Report(**json.load(file))


def prepared(inputs: Inputs, folder: str | os.PathLike) -> str:
  """The prepared file of these inputs in a folder; makes it if needed.

  Problems are warned of, also when the file was there already: a file with
  lines left out should not look whole the second time.

  Raises:
    FileNotFoundError, ValueError: see `prepare`.
  """
  check_exists(inputs)
  key = hashlib.sha256(
    json.dumps(inputs.identity(), sort_keys=True).encode()
  ).hexdigest()[:12]
  path = str(pathlib.Path(folder) / f'{inputs.benchmark}-{key}.jsonl')
  # The report is written last, so it says that the rest is whole.
  if os.path.exists(path) and os.path.exists(report_path(path)):
    report = read_report(path)
  else:
    report = prepare(inputs, path)
  for message in report.messages():
    _logger.warning('%s', message)
  return path


# ------------------------------------------------------------------- joining


def _limit(inputs: Inputs) -> int:
  if inputs.num_passages is not None:
    return inputs.num_passages
  return table.benchmark(inputs.benchmark).limits.num_passages


def _finder(inputs, found, folder, stack) -> contexts.FindPassage | None:
  """Looks up passages of the corpus; reads what is needed of it once."""
  if not inputs.corpus:
    return None
  limit = _limit(inputs)
  # Read for the ids only; what is wrong with it is counted the second time.
  unnoted = Problems(inputs.passages or inputs.questions)
  values = (
    (
      value
      for _, value in retrieved.iterate_retrieved(inputs.passages, unnoted)
    )
    if inputs.passages
    else questions.iterate_objects(
      table.benchmark(inputs.benchmark), inputs.questions, unnoted
    )
  )
  wanted = {
    identifier
    for value in values
    for identifier in contexts.references_of(value, limit)
  }
  store = corpora.PassageStore(
    inputs.corpus, wanted, found['corpus'], folder=folder
  )
  stack.callback(store.close)
  return store.find


def _join(inputs, found, find) -> Iterator[records.Record]:
  known = table.benchmark(inputs.benchmark)
  asked = questions.iterate_questions(
    known,
    inputs.questions,
    found['questions'],
    limit=0 if inputs.passages else _limit(inputs),
    find=find,
  )
  if not inputs.passages:
    yield from (record for _, record in asked)
    return
  waiting = {record.id: record for _, record in asked}
  by_question = {
    _key(record.question): name for name, record in waiting.items()
  }
  # MMLU's choices stand behind the question, and a retriever may not have
  # seen them.
  by_question |= {
    _key(record.extra['stem']): name
    for name, record in waiting.items()
    if 'stem' in record.extra
  }
  matched = 0
  # Written in the order of the retrieved file, which so need not be held.
  for place, value in retrieved.iterate_retrieved(
    inputs.passages, found['passages']
  ):
    name, question = rows.take_id(value), value.get('question')
    asked = by_question.get(_key(question)) if question else None
    # Numbers of another tool may be off by a header; the words are not.
    if name not in waiting or (asked and not _asks(waiting[name], question)):
      name = asked
    if name is None or name not in waiting:
      continue  # of another split, or asked before
    try:
      passages = contexts.contexts_of(value, name, _limit(inputs), find)
    except rows.Unusable as error:
      found['passages'].leave_out(error.kind, place, error.message)
      continue
    matched += 1
    yield dataclasses.replace(waiting.pop(name), contexts=passages)
  if waiting and not matched:
    raise ValueError(
      f'None of the questions in {inputs.questions} has passages in '
      f'{inputs.passages}: neither ids (such as {next(iter(waiting))!r}) nor '
      'questions agree. Expected the passages of these very questions; rows '
      'without an id are numbered from 0.'
    )
  yield from waiting.values()


def _asks(record: records.Record, question: Any) -> bool:
  texts = (record.question, record.extra.get('stem'))
  return _key(question) in map(_key, texts)


def _key(question: Any) -> str:
  return ' '.join(str(question).lower().split())


def _checked(joined, inputs, found) -> Iterator[records.Record]:
  """Counts questions without passages; fails if nothing is left."""
  written, problems = 0, found['questions']
  for record in joined:
    if not record.contexts:
      place = f'id {record.id}'
      message = f'{rows.shortened(record.question)!r} has no passages.'
      if inputs.training:
        problems.leave_out('question without passages', place, message)
        continue
      problems.mend('question without passages', place, message)
    written += 1
    yield record
  if not written:
    known = table.benchmark(inputs.benchmark)
    what = ' '.join(m for p in found.values() for m in p.summary())
    raise ValueError(
      f'{inputs.questions} holds no question of {known.name} that can be used. '
      f'Expected {known.formats}. {what}'
    )
