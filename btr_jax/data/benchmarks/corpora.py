"""Passages by id, out of a corpus that is larger than memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import json
import os
import tempfile
from typing import Any

from btr_jax.data.benchmarks import contexts, files, rows
from btr_jax.data.problems import Problems
from btr_jax.data.records import Passage

# DPR's psgs_w100.tsv.
_COLUMNS: Mapping[int, tuple[str, ...]] = {3: ('id', 'text', 'title')}


def iterate_passages(
  path: str | os.PathLike, found: Problems
) -> Iterator[Passage]:
  """Yields the passages of a corpus.

  Args:
    path: DPR's TSV (id, text, title) or JSON objects with "id", "title" and
      "text" (Atlas: also "section"; KILT: "text" may be a list).
    found: takes lines that cannot be used.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read at all.
  """
  header: list[str] | None = None
  for number, (place, value) in enumerate(files.iterate_values(path, found)):
    try:
      if isinstance(value, list):
        names = [column.strip().lower() for column in value]
        if number == 0 and {'id', 'text'} <= set(names):
          header = names
          continue
        value = rows.from_columns(value, header, _COLUMNS)
      if not isinstance(value, dict):
        raise rows.Unusable(
          'no object', f'{rows.shortened(repr(value))}; expected an object.'
        )
      identifier = contexts.identifier_of(value)
      if identifier is None:
        raise rows.Unusable(
          'passage without id', 'expected "id" with a string or a number.'
        )
      yield contexts.passage_of(value, identifier)
    except rows.Unusable as error:
      found.leave_out(error.kind, place, error.message)


class PassageStore:
  """Some passages of a corpus on disk, found by id.

  Memory holds their places only: 40 passages for each question of a training
  set are more text than many machines have memory.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    wanted: Collection[str],
    found: Problems,
    folder: str | None = None,
  ):
    """Reads the corpus once, and keeps what is wanted.

    Args:
      path: the corpus, see `iterate_passages`.
      wanted: ids of passages.
      found: takes lines that cannot be used, and ids that occur twice.
      folder: where the passages are kept until this object is gone.
    """
    self._places: dict[str, int] = {}
    self._file: Any = tempfile.TemporaryFile(dir=folder)
    for number, passage in enumerate(iterate_passages(path, found)):
      if passage.id not in wanted:
        continue
      if passage.id in self._places:
        found.leave_out(
          'duplicate id',
          f'passage {number + 1}',
          f'the id {passage.id!r} stands in the corpus before; ids must be '
          'unique.',
        )
        continue
      self._places[passage.id] = self._file.tell()
      line = json.dumps([passage.id, passage.title, passage.text])
      self._file.write(line.encode() + b'\n')

  def __len__(self) -> int:
    return len(self._places)

  def find(self, identifier: str) -> Passage | None:
    """The passage, or None if the corpus does not hold it."""
    place = self._places.get(identifier)
    if place is None:
      return None
    self._file.seek(place)
    return Passage(*json.loads(self._file.readline()))

  def close(self) -> None:
    """Removes what is on disk."""
    self._file.close()
