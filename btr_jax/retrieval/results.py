"""What was found, as the JSON Lines of DPR that tasks and readers take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import gzip
import io
import json
import os

from btr_jax.data import records
from btr_jax.data.records import Context, Passage, Record
from btr_jax.retrieval.interface import Hit
from btr_jax.retrieval.recall import has_answer


def with_passages(
  record: Record, hits: Iterable[Hit], passages: Sequence[Passage]
) -> Record:
  """The question with what was found for it.

  Args:
    record: the question; without answers nothing is judged.
    hits: best first.
    passages: the corpus that they number.
  """
  contexts = []
  for hit in hits:
    passage = passages[hit.passage]
    holds = None
    if record.answers:
      holds = has_answer(record.answers, f'{passage.title} {passage.text}')
    contexts.append(
      Context(
        passage.id, passage.title, passage.text, round(hit.score, 6), holds
      )
    )
  return dataclasses.replace(record, contexts=tuple(contexts))


def write(path: str | os.PathLike, found: Iterable[Record]) -> int:
  """Writes questions as a stream; the file appears whole or not at all.

  Args:
    path: JSON Lines; compressed if the name ends in .gz.
    found: the questions.

  Returns:
    How many.
  """
  if not os.fspath(path).endswith('.gz'):
    return records.write_records(path, found)
  with records.atomic_writer(path, binary=True) as file:
    # Without name and time, so that equal results are equal files.
    with gzip.GzipFile('', 'wb', 6, file, mtime=0) as packed:
      with io.TextIOWrapper(packed, 'utf-8', newline='\n') as text:
        return sum(1 for _ in _written(text, found))


def _written(
  file: io.TextIOWrapper, found: Iterable[Record]
) -> Iterator[Record]:
  for record in found:
    value = records.record_to_json(record)
    file.write(json.dumps(value, ensure_ascii=False) + '\n')
    yield record
