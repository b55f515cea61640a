"""What is wrong in data files: counted by kind, named by file and line."""

from __future__ import annotations

import collections
from collections.abc import Callable
import os
from typing import Any

# Of each kind so many lines are named; all of them are counted.
NAMED = 20
# So many are told in full: of all kinds, and of each kind.
KEPT = 20
_MESSAGES = 3


class Problems:
  """The lines that could not be used, or only after mending.

  Attributes:
    path: the file, or folder of files, for messages.
    prefix: goes before each place: the file within a folder.
    strict: whether the first line that has to be left out is an error.
    first: the first that were left out, one line of text each.
  """

  def __init__(
    self,
    path: str | os.PathLike = '',
    strict: bool = False,
    write: Callable[[str], object] | None = None,
  ):
    """Nothing has gone wrong yet.

    Args:
      path: heads all messages; empty where `prefix` tells the file.
      strict: raise at the first line that has to be left out.
      write: called with each line that is left out, as one line of text; in
        memory are only the first.
    """
    self.path = os.fspath(path)
    self.prefix = ''
    self.strict = strict
    self.first: list[str] = []
    self._write = write
    self._left_out: collections.Counter[str] = collections.Counter()
    self._mended: collections.Counter[str] = collections.Counter()
    self._places: dict[str, list[str]] = collections.defaultdict(list)
    self._messages: dict[str, list[str]] = collections.defaultdict(list)

  def leave_out(self, kind: str, place: str, message: str) -> None:
    """Counts something that cannot be used.

    Args:
      kind: a few words, the same for all of its kind: 'unknown label'.
      place: 'line 12', or 'item 12' of a JSON array; empty for a whole file.
      message: what was found, what was expected, what to do.

    Raises:
      ValueError: `strict` is set.
    """
    where = ', '.join(filter(None, (self.path, self.prefix, place)))
    text = f'{where}: {kind}: {message}'
    if self.strict:
      raise ValueError(
        f'{text.rstrip(".")}. Mend it, or leave strict off to leave such '
        'lines out and count them.'
      )
    if len(self.first) < KEPT:
      self.first.append(text)
    if self._write is not None:
      self._write(text + '\n')
    self._left_out[kind] += 1
    self._name(kind, place, message)

  def mend(self, kind: str, place: str, message: str) -> None:
    """Counts something that was used after a change."""
    self._mended[kind] += 1
    self._name(kind, place, message)

  def _name(self, kind: str, place: str, message: str) -> None:
    place = ', '.join(filter(None, (self.prefix, place)))
    if len(self._places[kind]) < NAMED:
      self._places[kind].append(place)
    if len(self._messages[kind]) < _MESSAGES:
      self._messages[kind].append(f'{place}: {message}')

  @property
  def counts(self) -> dict[str, int]:
    """How many were left out, by kind, in the order they were met."""
    return dict(self._left_out)

  @property
  def total(self) -> int:
    """How many were left out, of all kinds."""
    return sum(self._left_out.values())

  def summary(self) -> list[str]:
    """One message per kind, for people; empty if nothing was wrong."""
    found = []
    for counter, verb in ((self._left_out, 'left out'), (self._mended, 'kept')):
      for kind, count in sorted(counter.items()):
        places = ', '.join(self._places[kind])
        more = ', ...' if count > NAMED else ''
        examples = ' | '.join(self._messages[kind])
        found.append(
          f'{self.path}: {count} x {kind} ({verb}): {places}{more}. {examples}'
        )
    return found

  def to_dict(self) -> dict[str, Any]:
    """As JSON values: counts and the places that are named."""
    return {
      'file': self.path,
      'left_out': dict(sorted(self._left_out.items())),
      'mended': dict(sorted(self._mended.items())),
      'places': {kind: list(self._places[kind]) for kind in self._places},
      'messages': self.summary(),
    }
