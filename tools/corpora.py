"""Passages, the questions about them, and how to find the one for the other."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from typing import Any

from btr_jax.data import passage_file, records
from btr_jax.data.factbook import prepare
from btr_jax.retrieval import bm25
from btr_jax.tools import common

FACTBOOK = 'factbook'


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A corpus in memory.

  Attributes:
    name: for folders and messages.
    passages: in the order that retriever and cache number them by.
    bm25_options: how it is indexed.
  """

  name: str
  passages: Sequence[records.Passage]
  bm25_options: tuple[tuple[str, Any], ...] = ()

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 over ids, titles and texts, in order."""
    return self.fingerprint_of(len(self.passages))

  def fingerprint_of(self, count: int) -> str:
    """The fingerprint of the first `count` passages."""
    digest = hashlib.sha256()
    for passage in itertools.islice(self.passages, count):
      fields = [passage.id, passage.title, passage.text]
      digest.update(json.dumps(fields).encode() + b'\n')
    return digest.hexdigest()

  @functools.cached_property
  def retriever(self) -> bm25.Bm25Retriever:
    """The index; kept in the data folder, and mapped the next time."""
    options = dict(self.bm25_options)
    key = hashlib.sha256(
      json.dumps([self.fingerprint, options], sort_keys=True).encode()
    ).hexdigest()
    folder = common.data_folder() / 'indexes' / f'{self.name}-{key[:12]}'
    try:
      return bm25.Bm25Retriever.load(folder)
    except (FileNotFoundError, ValueError):
      pass  # not there yet, or of another version
    retriever = bm25.Bm25Retriever.build(self.passages, **options)
    retriever.save(folder)
    return retriever


def factbook_files() -> prepare.FactbookFiles:
  """Where the prepared Factbook is or will be."""
  return prepare.FactbookFiles(str(common.data_folder() / FACTBOOK))


def _prepared_factbook(build: bool) -> prepare.FactbookFiles:
  files = factbook_files()
  # The report is written last, so it says that the rest is whole.
  if pathlib.Path(files.report).is_file():
    return files
  if not build:
    raise common.UserError(
      f'the Factbook is not prepared: {files.report} is missing. Run '
      '`btr prepare-corpus factbook` (two minutes, no download), or add '
      '--build.'
    )
  common.say(f'preparing the Factbook in {files.folder}')
  return prepare.prepare(
    files.folder, progress=lambda message: common.say(f'  {message}')
  )


def load_corpus(
  given: str = FACTBOOK, *, build: bool = False, on_disk: bool = False
) -> Corpus:
  """Reads a corpus.

  Args:
    given: `factbook`, or a file of {"id", "title", "text"} lines.
    build: prepare the Factbook if it is not there.
    on_disk: leave the passages of a file where they are, for corpora that do
      not fit in memory; wrong lines are then found when they are read.

  Raises:
    UserError: it is not there; says what to do.
    ValueError: a line of the file is wrong; names it.
  """
  if given == FACTBOOK:
    files = _prepared_factbook(build)
    options = tuple(sorted(prepare.BM25_OPTIONS.items()))
    return Corpus(FACTBOOK, records.read_passages(files.passages), options)
  path = pathlib.Path(given)
  if not path.is_file():
    raise common.UserError(
      f'--corpus {given}: expected `{FACTBOOK}` or a file of JSON lines with '
      '"id", "title" and "text"; there is no such file.'
    )
  passages: Sequence[records.Passage] = (
    passage_file.PassageFile(path) if on_disk else records.read_passages(path)
  )
  if not len(passages):
    raise common.UserError(f'--corpus {given}: the file holds no passage.')
  return Corpus(path.stem, passages)


def load_questions(
  given: str | None, split: str, *, build: bool = False
) -> list[records.Record]:
  """Reads questions with the passages that were retrieved for them.

  Args:
    given: a file in the format of DPR; None takes a split of the Factbook.
    split: of the Factbook.
    build: prepare the Factbook if it is not there.

  Raises:
    UserError: there is no such file, or no question that can be scored.
    ValueError: unknown split, or a line of the file is wrong.
  """
  if given is None:
    path = pathlib.Path(_prepared_factbook(build).split(split))
  else:
    path = pathlib.Path(given)
  if not path.is_file():
    raise common.UserError(
      f'{path}: there is no such file; expected JSON lines with "question", '
      '"answers" and "ctxs", as DPR and Atlas write them.'
    )
  found = [r for r in records.iterate_records(path) if r.answers]
  if not found:
    raise common.UserError(f'{path} holds no question with an answer.')
  return found
