"""What is wrong in a data file: counted by kind, named by line."""

from __future__ import annotations

import collections
from typing import Any

# Of each kind so many lines are named; all of them are counted.
NAMED = 20
_MESSAGES = 3


class Problems:
  """The lines of one file that could not be used, or only after mending.

  Attributes:
    path: the file, or folder of files, for messages.
    prefix: goes before each place: the file within a folder.
    strict: whether the first line that has to be left out is an error.
  """

  def __init__(self, path: str, strict: bool = False):
    self.path = path
    self.strict = strict
    self.prefix = ''
    self._left_out: collections.Counter[str] = collections.Counter()
    self._mended: collections.Counter[str] = collections.Counter()
    self._places: dict[str, list[str]] = collections.defaultdict(list)
    self._messages: dict[str, list[str]] = collections.defaultdict(list)

  def leave_out(self, kind: str, place: str, message: str) -> None:
    """Counts something that cannot be used.

    Args:
      kind: a few words, the same for all of its kind: 'unknown label'.
      place: 'line 12', or 'item 12' of a JSON array.
      message: what was found and what was expected.

    Raises:
      ValueError: `strict` is set.
    """
    if self.strict:
      raise ValueError(
        f'{self.path}, {self.prefix}{place}: {message} Mend it, or leave '
        'strict off to leave such lines out and count them.'
      )
    self._left_out[kind] += 1
    self._name(kind, place, message)

  def mend(self, kind: str, place: str, message: str) -> None:
    """Counts something that was used after a change."""
    self._mended[kind] += 1
    self._name(kind, place, message)

  def _name(self, kind, place, message):
    place = self.prefix + place
    if len(self._places[kind]) < NAMED:
      self._places[kind].append(place)
    if len(self._messages[kind]) < _MESSAGES:
      self._messages[kind].append(f'{place}: {message}')

  @property
  def num_left_out(self) -> int:
    """Lines that were left out, of all kinds."""
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
