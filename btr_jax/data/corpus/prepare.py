"""Files and folders in, one prepared corpus out, streamed.

Memory holds one line or passage at a time, and for every passage eight bytes
of place and two hashes of eight bytes (ids and texts seen), which Python's
sets make about 200 bytes.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from btr_jax.data import folders, records
from btr_jax.data.corpus import documents, lines, splitting, store, text_files
from btr_jax.data.problems import Problems
from btr_jax.data.records import Passage

WORDS = 100
SUFFIXES = (*documents.SUFFIXES, *lines.SUFFIXES)
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Options:
  """How files become passages.

  Attributes:
    words: in a passage.
    encoding: of files without a byte order mark.
    new_ids: number the passages, whatever ids the files give.
    strict: stop at the first thing that is wrong.
  """

  words: int = WORDS
  encoding: str = 'utf-8'
  new_ids: bool = False
  strict: bool = False

  def __post_init__(self):
    if self.words < 1:
      raise ValueError(f'words is {self.words}; expected at least 1.')
    text_files.check_encoding(self.encoding)


@dataclasses.dataclass(frozen=True)
class Source:
  """One file to read, and the name that passages of it are given."""

  path: pathlib.Path
  name: str

  def stamp(self) -> list[Any]:
    """Changes when the file does."""
    status = self.path.stat()
    return [self.name, status.st_size, status.st_mtime_ns]


def find_sources(
  inputs: Sequence[str | os.PathLike],
) -> tuple[list[Source], dict[str, int]]:
  """The files to read, in a fixed order.

  Hidden files and folders are passed over, as by `ls`.

  Args:
    inputs: files and folders.

  Returns:
    (files, number of files in folders left out, by suffix).

  Raises:
    FileNotFoundError: an input is not there.
    ValueError: a file that was named is of no known kind, or there is none.
  """
  sources: list[Source] = []
  others: dict[str, int] = {}
  kinds = ', '.join(SUFFIXES)
  for given in map(pathlib.Path, inputs):
    if given.is_file():
      if text_files.suffix_of(given) not in SUFFIXES:
        raise ValueError(
          f'{given} has the suffix {given.suffix!r}; expected one of {kinds}, '
          f'maybe with {", ".join(text_files.COMPRESSED)} behind it.'
        )
      sources.append(Source(given, given.name))
      continue
    if not given.is_dir():
      raise FileNotFoundError(f'There is no file or folder {given}.')
    for folder, inner, names in os.walk(given):
      inner[:] = sorted(name for name in inner if not name.startswith('.'))
      for name in sorted(n for n in names if not n.startswith('.')):
        path = pathlib.Path(folder, name)
        suffix = text_files.suffix_of(path)
        if suffix in SUFFIXES:
          sources.append(Source(path, path.relative_to(given).as_posix()))
        else:
          others[suffix or name] = others.get(suffix or name, 0) + 1
  if not sources:
    found = ', '.join(f'{n} x {suffix}' for suffix, n in sorted(others.items()))
    raise ValueError(
      f'{", ".join(map(str, inputs))}: no file to read; expected {kinds}. '
      f'Found: {found or "nothing"}.'
    )
  return sources, others


def settings_of(sources: Sequence[Source], options: Options) -> dict[str, Any]:
  """What a prepared corpus was made from; equal settings, equal corpus."""
  digest = hashlib.sha256()
  for source in sources:
    digest.update(json.dumps(source.stamp()).encode())
  return {
    'files': len(sources),
    'files_stamp': digest.hexdigest(),
    'words': options.words,
    'encoding': text_files.check_encoding(options.encoding),
    'new_ids': options.new_ids,
  }


def passages_of(
  source: Source,
  options: Options,
  problems: Problems,
  progress: Callable[[int], None] = lambda position: None,
) -> Iterator[lines.Found]:
  """The passages of one file with their places, as a stream."""
  problems.prefix = source.name
  suffix = text_files.suffix_of(source.path)
  numbered = text_files.iterate_lines(
    source.path, options.encoding, problems, progress
  )
  if suffix in lines.TABLE:
    yield from lines.table_passages(numbered, options.words, problems)
  elif suffix in lines.JSON_LINES:
    yield from lines.json_passages(
      numbered, source.name, options.words, problems
    )
  else:
    wrong = text_files.problem_of(source.path, options.encoding)
    if wrong:
      problems.leave_out('not text', '', wrong)
      return
    pieces = documents.pieces_of(suffix, (line for _, line in numbered))
    title = documents.title_of(source.name)
    number = -1
    for number, (whole, text) in enumerate(
      splitting.split(pieces, title, options.words)
    ):
      yield '', Passage(f'{source.name}#{number}', whole, text)
    if number < 0:
      problems.leave_out('empty text', '', 'the file has no text')


class _Seen:
  """Remembers values by eight bytes of their hash."""

  def __init__(self) -> None:
    self._hashes: set[int] = set()

  def add(self, value: str) -> bool:
    """Whether the value is new."""
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    number = int.from_bytes(digest, 'little')
    if number in self._hashes:
      return False
    self._hashes.add(number)
    return True


class _Writer:
  """Writes passages.jsonl and gathers offsets and fingerprint."""

  def __init__(self, path: pathlib.Path):
    self._file = open(path, 'wb', buffering=1 << 20)
    self._digest = hashlib.sha256()
    self.offsets = array.array('Q', [0])
    self.words = 0

  def __enter__(self) -> _Writer:
    return self

  def __exit__(self, *unused: object) -> None:
    self._file.close()

  def write(self, passage: Passage) -> None:
    line = json.dumps(dataclasses.asdict(passage), ensure_ascii=False)
    data = line.encode() + b'\n'
    self._file.write(data)
    self.offsets.append(self.offsets[-1] + len(data))
    self._digest.update(store.fingerprint_line(passage))
    self.words += passage.text.count(' ') + 1

  @property
  def count(self) -> int:
    return len(self.offsets) - 1

  @property
  def fingerprint(self) -> str:
    return self._digest.hexdigest()


def prepare(
  inputs: Sequence[str | os.PathLike],
  folder: str | os.PathLike,
  options: Options = Options(),
  *,
  force: bool = False,
  progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Any], bool]:
  """Prepares a corpus, or finds it prepared from the same files.

  The folder appears whole or not at all: passages.jsonl ({"id", "title",
  "text"} lines), passages.offsets.npy, problems.txt (every problem), and
  report.json.

  Args:
    inputs: files and folders.
    folder: where to.
    options: how.
    force: replace a corpus that was made from other files or options, or
      prepare the same one again.
    progress: called with (bytes of input done, all bytes of input).

  Returns:
    (report, whether anything had to be done).

  Raises:
    FileNotFoundError: an input is not there.
    ValueError: nothing to read, no passage at the end, a destination that is
      something else, or, with strict, the first problem.
  """
  folder = pathlib.Path(folder)
  sources, others = find_sources(inputs)
  settings = settings_of(sources, options)
  report = store.read_report(folder)
  if report is not None and not force:
    if report['settings'] == settings:
      if options.strict and report['problems']:
        raise ValueError(
          f'{report["first_problems"][0]} (So it was found when {folder} was '
          'prepared without --strict.)'
        )
      return report, False
    raise ValueError(
      f'{folder} holds a corpus of other files or options '
      f'({_differences(report["settings"], settings)}). Choose another '
      'folder, or --force to replace it.'
    )
  if report is None and folder.exists():
    if not folder.is_dir() or any(folder.iterdir()):
      raise ValueError(
        f'{folder} exists and holds no prepared corpus; choose another folder.'
      )
  with folders.replacing(folder) as aside:
    aside.mkdir()
    report = _prepare_into(aside, sources, others, options, settings, progress)
  return report, True


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
  keys = [k for k in wanted if found.get(k) != wanted[k]]
  return ', '.join(
    'the files changed'
    if key == 'files_stamp'
    else f'{key}: {found.get(key)!r}, now {wanted[key]!r}'
    for key in keys
  )


def _prepare_into(
  folder: pathlib.Path,
  sources: Sequence[Source],
  others: dict[str, int],
  options: Options,
  settings: dict[str, Any],
  progress: Progress,
) -> dict[str, Any]:
  duplicates = 0
  ids, texts = _Seen(), _Seen()
  with contextlib.ExitStack() as stack:
    told = stack.enter_context(
      open(folder / store.PROBLEMS_FILE, 'w', encoding='utf-8')
    )
    problems = Problems(strict=options.strict, write=told.write)
    writer = stack.enter_context(_Writer(folder / records.PASSAGES_FILE))
    found = _with_progress(sources, options, problems, progress)
    for where, passage in found:
      if not texts.add(f'{passage.title}\n{passage.text}'):
        duplicates += 1
        continue
      if options.new_ids:
        passage = dataclasses.replace(passage, id=str(writer.count))
      elif not ids.add(passage.id):
        problems.leave_out(
          'duplicate id',
          where,
          f'the id {passage.id!r} stood before with another text; make ids '
          'unique, or number all passages anew by --new-ids',
        )
        continue
      writer.write(passage)
  if not writer.count:
    first = ''.join(f'\n  {text}' for text in problems.first[:5])
    raise ValueError(
      f'No passage was found in {len(sources)} files; {problems.total} '
      f'problems.{first}'
    )
  np.save(folder / store.OFFSETS_FILE, np.asarray(writer.offsets, np.uint64))
  report = {
    'kind': store.KIND,
    'format_version': store.FORMAT_VERSION,
    'settings': settings,
    'passages': writer.count,
    'bytes': writer.offsets[-1],
    'words': writer.words,
    'fingerprint': writer.fingerprint,
    'duplicates': duplicates,
    'files': len(sources),
    'other_files': others,
    'problems': problems.counts,
    'first_problems': problems.first,
  }
  records.write_json(folder / store.REPORT_FILE, report)
  return report


def _with_progress(
  sources: Sequence[Source],
  options: Options,
  problems: Problems,
  progress: Progress,
) -> Iterator[lines.Found]:
  """All passages; tells how many bytes of the files have been read."""
  sizes = [source.path.stat().st_size for source in sources]
  total, before = sum(sizes), 0

  for source, size in zip(sources, sizes, strict=True):
    yield from passages_of(
      source,
      options,
      problems,
      lambda position, before=before: progress(before + position, total),
    )
    before += size
    progress(before, total)
