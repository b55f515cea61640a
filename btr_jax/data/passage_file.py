"""A corpus that stays on disk: sixteen bytes of memory per passage."""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence
import os
from typing import overload

from btr_jax.data import records


class PassageFile(Sequence):
  """The passages of a file of {"id", "title", "text"} lines, read on demand.

  For one pass after another over a corpus of any size, from any thread. Unlike
  `records.read_passages` it does not look whether ids are unique, and finds a
  wrong line only when that line is read.
  """

  def __init__(self, path: str | os.PathLike):
    """Reads through the file once, to find the lines.

    Raises:
      FileNotFoundError: there is no such file.
    """
    self._path = path
    self._starts = array.array('Q')
    self._lines = array.array('Q')  # numbers, for messages: lines may be blank
    position = 0
    with open(path, 'rb') as file:
      for number, line in enumerate(file, start=1):
        if line.strip():
          self._starts.append(position)
          self._lines.append(number)
        position += len(line)
    self._starts.append(position)
    self._descriptor = os.open(path, os.O_RDONLY)

  def __del__(self):
    if hasattr(self, '_descriptor'):
      os.close(self._descriptor)

  def __len__(self) -> int:
    return len(self._lines)

  @overload
  def __getitem__(self, index: int) -> records.Passage: ...

  @overload
  def __getitem__(self, index: slice) -> list[records.Passage]: ...

  def __getitem__(self, index):
    """A passage, or those of a slice. ValueError names a wrong line."""
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    number = range(len(self))[index]
    start, stop = self._starts[number], self._starts[number + 1]
    # Not the position of a file: threads may read at the same time.
    line = os.pread(self._descriptor, stop - start, start)
    line = line.partition(b'\n')[0]  # a blank line may follow
    where = f'{self._path}, line {self._lines[number]}'
    return records.passage_from_json(records.parse_line(line, where), where)

  def __iter__(self) -> Iterator[records.Passage]:
    return (self[number] for number in range(len(self)))
