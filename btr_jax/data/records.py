"""Passages and questions on disk: JSON Lines in the format of DPR and Atlas.

A question's line is
  {"id", "question", "answers": [...], "ctxs": [{"id", "title", "text",
   "score", "has_answer"}, ...]} and optionally "field", "country", "gold";
a passage's line is {"id", "title", "text"}. Unknown keys are kept in `extra`.
A context may leave out title and text ({"id", "score", "has_answer"}); they
are then looked up by id in the file passages.jsonl of the same folder, which
keeps large training files small.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import tempfile
from typing import IO, Any

from btr_jax.data.corpus import text_files

PASSAGES_FILE = 'passages.jsonl'

_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Passage:
  """One passage of a corpus."""

  id: str
  title: str
  text: str


@dataclasses.dataclass(frozen=True)
class Context:
  """A passage as retrieved for one question."""

  id: str
  title: str
  text: str
  score: float = 0.0
  has_answer: bool | None = None

  @property
  def passage(self) -> Passage:
    return Passage(self.id, self.title, self.text)


@dataclasses.dataclass(frozen=True)
class Record:
  """One question with its answers and the passages retrieved for it.

  Attributes:
    id: unique within its file.
    question: as a user would ask it.
    answers: every string that counts as right; the first one is the one to
      train on. Empty where the answers are not public.
    contexts: the retrieved passages, best first.
    extra: whatever else the line held (for the Factbook: "field", "country"
      and "gold", the id of the passage that the answer was taken from).
  """

  id: str
  question: str
  answers: tuple[str, ...]
  contexts: tuple[Context, ...] = ()
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def atomic_writer(
  path: str | os.PathLike, binary: bool = False
) -> Iterator[IO[Any]]:
  """Opens a file that appears under `path` whole or not at all."""
  path = os.fspath(path)
  folder = os.path.dirname(path) or '.'
  os.makedirs(folder, exist_ok=True)
  descriptor, aside = tempfile.mkstemp(
    prefix='.' + os.path.basename(path) + '.', dir=folder
  )
  try:
    options = {} if binary else {'encoding': 'utf-8', 'newline': '\n'}
    with open(descriptor, 'wb' if binary else 'w', **options) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 would hide it from others
    os.replace(aside, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(aside)
    raise


def iterate_json_lines(
  path: str | os.PathLike,
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, object) of a JSON Lines file, maybe .gz, .xz.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not a JSON object; the message names file and line.
  """
  with text_files.open_binary(path) as (file, _):
    for number, line in enumerate(file, start=1):
      if line.strip():
        yield number, parse_line(line, f'{path}, line {number}')


def parse_line(line: bytes, where: str) -> dict[str, Any]:
  """Parses one line; `where` heads error messages.

  Raises:
    ValueError: the line is not a JSON object.
  """
  try:
    value = json.loads(line)
  except ValueError as error:  # not JSON, or not UTF-8
    raise ValueError(
      f'{where}: not JSON ({error}). Expected one object per line (JSON Lines).'
    ) from error
  if not isinstance(value, dict):
    raise ValueError(
      f'{where}: expected a JSON object, found {type(value).__name__}.'
    )
  return value


def read_records(path: str | os.PathLike) -> list[Record]:
  """Reads all questions of a file. Errors as `iterate_records`."""
  return list(iterate_records(path))


def iterate_records(
  path: str | os.PathLike, corpus: Mapping[str, Passage] | None = None
) -> Iterator[Record]:
  """Yields the questions of a DPR-style file one by one.

  Args:
    path: the JSON Lines file.
    corpus: passages by id for contexts without text; by default the file
      passages.jsonl beside `path`, read when first needed.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line lacks a key or holds a value of the wrong type; the
      message names file, line, key and what was expected.
  """
  for number, value in iterate_json_lines(path):
    if corpus is None and has_references(value):
      beside = corpus_file_beside(path)
      if beside is not None:
        corpus = {passage.id: passage for passage in read_passages(beside)}
    yield record_from_json(value, f'{path}, line {number}', corpus)


def record_from_json(
  value: dict[str, Any],
  where: str = 'record',
  corpus: Mapping[str, Passage] | None = None,
) -> Record:
  """Builds a Record from a parsed line.

  Args:
    value: the parsed line.
    where: heads error messages.
    corpus: passages by id for contexts without text.

  Raises:
    ValueError: as `iterate_records`.
  """
  value = dict(value)
  question = _take(value, 'question', str, where)
  answers = _take(value, 'answers', list, where, default=[])
  for answer in answers:
    if not isinstance(answer, str):
      raise ValueError(
        f'{where}: "answers" must be a list of strings, found {answer!r}.'
      )
  contexts = tuple(
    _context_from_json(context, f'{where}, ctxs[{rank}]', corpus)
    for rank, context in enumerate(
      _take(value, 'ctxs', list, where, default=[])
    )
  )
  identifier = str(_take(value, 'id', (str, int), where, default=question))
  return Record(identifier, question, tuple(answers), contexts, value)


def _context_from_json(context, where, corpus) -> Context:
  if not isinstance(context, dict):
    raise ValueError(f'{where}: expected an object, found {context!r}.')
  context = dict(context)
  identifier = str(_take(context, 'id', (str, int), where))
  if 'text' not in context and corpus is not None:
    if identifier not in corpus:
      raise ValueError(
        f'{where}: no text, and the corpus has no passage {identifier!r}.'
      )
    passage = corpus[identifier]
    context |= {'title': passage.title, 'text': passage.text}
  score = _take(context, 'score', (int, float, str), where, default=0.0)
  has_answer = context.get('has_answer')
  return Context(
    id=identifier,
    title=_take(context, 'title', str, where, default=''),
    text=_take(context, 'text', str, where),
    score=float(score),
    has_answer=None if has_answer is None else bool(has_answer),
  )


def has_references(value: dict[str, Any]) -> bool:
  """Whether a parsed line refers to passages by id only."""
  contexts = value.get('ctxs')
  return isinstance(contexts, list) and any(
    isinstance(context, dict) and 'text' not in context for context in contexts
  )


def corpus_file_beside(path: str | os.PathLike) -> str | None:
  """The passages.jsonl in the folder of `path`, if there is one."""
  beside = os.path.join(os.path.dirname(os.fspath(path)), PASSAGES_FILE)
  return beside if os.path.exists(beside) else None


def record_to_json(record: Record, with_texts: bool = True) -> dict[str, Any]:
  """The inverse of `record_from_json`; may refer to passages by id only."""
  contexts = [dataclasses.asdict(context) for context in record.contexts]
  if not with_texts:
    for context in contexts:
      del context['title'], context['text']
  return {
    'id': record.id,
    'question': record.question,
    'answers': list(record.answers),
    **record.extra,
    'ctxs': contexts,
  }


def write_records(
  path: str | os.PathLike,
  records: Iterable[Record],
  with_texts: bool = True,
) -> int:
  """Writes questions atomically; returns how many.

  Args:
    path: the JSON Lines file.
    records: the questions.
    with_texts: False leaves titles and texts out; they must then stand in
      passages.jsonl in the same folder.
  """
  return write_json_lines(
    path, (record_to_json(record, with_texts) for record in records)
  )


def read_passages(path: str | os.PathLike) -> list[Passage]:
  """Reads a corpus of {"id", "title", "text"} lines.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line lacks a key, or an id occurs twice.
  """
  passages = []
  seen: dict[str, int] = {}
  for number, value in iterate_json_lines(path):
    where = f'{path}, line {number}'
    passage = passage_from_json(value, where)
    if passage.id in seen:
      raise ValueError(
        f'{where}: the id {passage.id!r} stands on line {seen[passage.id]} '
        'already. Ids of passages must be unique.'
      )
    seen[passage.id] = number
    passages.append(passage)
  return passages


def passage_from_json(value: Mapping[str, Any], where: str) -> Passage:
  """A passage of a corpus; ValueError, headed by `where`, if a key is wrong."""
  return Passage(
    id=str(_take(value, 'id', (str, int), where)),
    title=_take(value, 'title', str, where, default=''),
    text=_take(value, 'text', str, where),
  )


def write_passages(path: str | os.PathLike, passages: Iterable[Passage]) -> int:
  """Writes a corpus atomically; returns how many passages."""
  return write_json_lines(path, map(dataclasses.asdict, passages))


def write_json_lines(
  path: str | os.PathLike, values: Iterable[dict[str, Any]]
) -> int:
  """Writes objects one per line, aside and then renamed; returns how many."""
  count = 0
  with atomic_writer(path) as file:
    for value in values:
      file.write(json.dumps(value, ensure_ascii=False) + '\n')
      count += 1
  return count


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes one indented JSON document atomically."""
  with atomic_writer(path) as file:
    json.dump(value, file, ensure_ascii=False, indent=2)
    file.write('\n')


def _take(value, key, kind, where, default=_MISSING):
  if key not in value:
    if default is _MISSING:
      raise ValueError(
        f'{where}: the key "{key}" is missing; add it, or leave the line out.'
        + (f' Other keys found: {sorted(value)}.' if value else '')
      )
    return default
  found = value.pop(key)
  if not isinstance(found, kind):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    raise ValueError(
      f'{where}: "{key}" must be {" or ".join(k.__name__ for k in kinds)}, '
      f'found {found!r}.'
    )
  return found
