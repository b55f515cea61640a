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

import numpy as np

from btr_jax.data import encoding, passage_file, records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.data.corpus import lines, store, text_files
from btr_jax.data.corpus import prepare as corpus_prepare
from btr_jax.data.factbook import prepare
from btr_jax.retrieval import bm25
from btr_jax.tools import common
from btr_jax.tools import progress as progress_lib

FACTBOOK = 'factbook'


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A corpus, in memory or mapped.

  Attributes:
    name: for folders and messages.
    passages: in the order that retriever and cache number them by.
    bm25_options: how it is indexed.
    documents: whether it was made from a folder of a user's own on the way, so
      that the rest may be made without asking, too.
  """

  name: str
  passages: Sequence[records.Passage]
  bm25_options: tuple[tuple[str, Any], ...] = ()
  documents: bool = False

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 over ids, titles and texts, in order."""
    return self.fingerprint_of(len(self.passages))

  def fingerprint_of(self, count: int) -> str:
    """The fingerprint of the first `count` passages."""
    whole = count == len(self.passages)
    if whole and isinstance(self.passages, store.PassageFile):
      return self.passages.fingerprint
    digest = hashlib.sha256()
    for passage in itertools.islice(self.passages, count):
      digest.update(store.fingerprint_line(passage))
    return digest.hexdigest()

  def index_folder(self, made_from: Any) -> pathlib.Path:
    """Where an index of this corpus is kept, under the data folder.

    Args:
      made_from: what else it depends on, as JSON can write it.
    """
    key = hashlib.sha256(
      json.dumps([self.fingerprint, made_from], sort_keys=True).encode()
    ).hexdigest()
    return common.data_folder() / 'indexes' / f'{self.name}-{key[:12]}'

  @functools.cached_property
  def retriever(self) -> bm25.Bm25Retriever:
    """The index; kept in the data folder, and mapped the next time."""
    options = dict(self.bm25_options)
    folder = self.index_folder(options)
    try:
      return bm25.Bm25Retriever.load(folder, corpus=self.fingerprint)
    except (FileNotFoundError, ValueError):
      pass  # not there yet, or of another version
    common.say(f'building the BM25 index {folder}')
    retriever = bm25.Bm25Retriever.build(self.passages, **options)
    retriever.save(folder, corpus=self.fingerprint)
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


def show_problems(report: dict[str, Any], place: pathlib.Path) -> None:
  """Tells on standard error what was left out, never more than a screen."""
  problems = report['problems']
  if problems:
    counts = ', '.join(f'{kind}: {n:,}' for kind, n in problems.items())
    common.say(f'warning: left out: {counts}')
    for text in report['first_problems'][:5]:
      common.say(f'  {text}')
    total = sum(problems.values())
    if total > 5:
      common.say(f'  ... all {total:,} in {place / store.PROBLEMS_FILE}')
  others = report['other_files']
  if others:
    counts = ', '.join(f'{n} x {suffix}' for suffix, n in others.items())
    common.say(f'warning: files of other kinds were not read: {counts}')


def prepare_files(
  inputs: Sequence[str | pathlib.Path],
  folder: pathlib.Path,
  options: corpus_prepare.Options,
  force: bool = False,
) -> tuple[dict[str, Any], bool]:
  """As `corpus.prepare.prepare`, with progress and problems on the screen."""
  with progress_lib.Progress('reading, MB') as progress:
    report, new = corpus_prepare.prepare(
      inputs,
      folder,
      options,
      force=force,
      progress=lambda done, total: progress(
        -(-done // 10**6), -(-total // 10**6)
      ),
    )
  show_problems(report, folder)
  return report, new


def _prepared(folder: pathlib.Path, **options: Any) -> Corpus:
  name = folder.name or folder.absolute().name
  return Corpus(name, store.PassageFile(folder), **options)


def _documents(path: pathlib.Path) -> Corpus:
  """Files of a user's own, prepared under the data folder unless unchanged."""
  place = str(path.resolve())
  key = hashlib.sha256(place.encode()).hexdigest()[:8]
  name = path.resolve().name.partition('.')[0] or 'root'
  folder = common.data_folder() / 'corpora' / f'{name}-{key}'
  options = corpus_prepare.Options()
  sources, _ = corpus_prepare.find_sources([path])
  report = store.read_report(folder)
  wanted = corpus_prepare.settings_of(sources, options)
  if report is None or report['settings'] != wanted:
    changed = 'changed since it was prepared; ' if report else ''
    common.say(f'{path}: {changed}preparing passages in {folder}')
    prepare_files([path], folder, options, force=True)
  elif report['problems']:
    common.say(
      f'warning: {sum(report["problems"].values()):,} things were left out of '
      f'{path} when it was prepared: {folder / store.PROBLEMS_FILE}'
    )
  # A single file may be all of Wikipedia: its cache is built when asked for.
  return _prepared(folder, documents=path.is_dir())


def load_corpus(
  given: str = FACTBOOK, *, build: bool = False, on_disk: bool = False
) -> Corpus:
  """Reads a corpus.

  Args:
    given: `factbook`; a folder that `btr prepare-corpus` wrote; a folder of
      documents, or a file that has to be prepared, which happens here; or a
      plain file of {"id", "title", "text"} lines, which is read into memory.
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
  if path.is_dir() and store.read_report(path) is not None:
    return _prepared(path)
  if path.is_dir() or (path.is_file() and _needs_preparing(path)):
    return _documents(path)
  if not path.is_file():
    raise common.UserError(
      f'--corpus {given}: expected `{FACTBOOK}`, a folder (of documents, or '
      'written by `btr prepare-corpus`), or a file of JSON lines with "id", '
      '"title" and "text"; there is no such file or folder.'
    )
  passages: Sequence[records.Passage] = (
    passage_file.PassageFile(path) if on_disk else records.read_passages(path)
  )
  if not len(passages):
    raise common.UserError(f'--corpus {given}: the file holds no passage.')
  return Corpus(path.stem, passages)


def _needs_preparing(path: pathlib.Path) -> bool:
  """Whether a file is of a kind that is not read as it stands."""
  compressed = path.suffix.lower() in text_files.COMPRESSED
  suffix = text_files.suffix_of(path)
  return suffix in corpus_prepare.SUFFIXES and (
    compressed or suffix not in lines.JSON_LINES
  )


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


def add_draw_arguments(parser: common.Parser, passages: int) -> None:
  """Adds --corpus, --passages and --seed, for `drawn_tokens`."""
  add = parser.add_argument
  add(
    '--corpus',
    default=FACTBOOK,
    help='factbook, a prepared folder, a folder of documents, or a file',
  )
  add(
    '--passages',
    type=common.positive,
    default=passages,
    help=f'drawn at random ({passages})',
  )
  add('--seed', type=int, default=0, help='of the draw (0)')


def drawn_tokens(
  corpus: Corpus,
  vocabulary: vocabulary_lib.Vocabulary,
  count: int,
  length: int,
  seed: int = 0,
) -> np.ndarray:
  """Passages drawn at random, as tokens.

  Args:
    corpus: where from.
    vocabulary: gives the ids.
    count: passages to draw.
    length: tokens of each, padded with 0.
    seed: of the draw.

  Returns:
    int32 [count, length].

  Raises:
    UserError: the corpus has fewer passages.
  """
  total = len(corpus.passages)
  if count > total:
    raise common.UserError(
      f'--passages {count}: the corpus has {total}; expected at most as many.'
    )
  chosen = np.random.default_rng(seed).permutation(total)[:count]
  drawn = [corpus.passages[int(place)] for place in chosen]
  pairs = [(passage.title, passage.text) for passage in drawn]
  return encoding.encode_passages(vocabulary, pairs, length)
