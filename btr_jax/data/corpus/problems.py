"""What was wrong with the input: counted by kind, named by file and line."""

from __future__ import annotations

from collections.abc import Callable

KEPT = 20


class Problems:
  """Collects what had to be left out, or stops at the first such thing."""

  def __init__(
    self,
    strict: bool = False,
    write: Callable[[str], object] | None = None,
  ):
    """Nothing has gone wrong yet.

    Args:
      strict: raise at the first problem.
      write: called with each problem as one line of text; only the first
        `KEPT` are held in memory.
    """
    self.counts: dict[str, int] = {}
    self.first: list[str] = []
    self._strict = strict
    self._write = write

  @property
  def total(self) -> int:
    return sum(self.counts.values())

  def add(self, kind: str, where: str, message: str) -> None:
    """Takes note of one problem.

    Args:
      kind: a few words to count by, such as 'not JSON'.
      where: file and line.
      message: what was found, what was expected, what to do.

    Raises:
      ValueError: the collector is strict.
    """
    text = f'{where}: {kind}: {message}'
    if self._strict:
      raise ValueError(
        f'{text} (Without --strict this is counted, named and left out.)'
      )
    self.counts[kind] = self.counts.get(kind, 0) + 1
    if len(self.first) < KEPT:
      self.first.append(text)
    if self._write is not None:
      self._write(text + '\n')
