"""Temporary files of fixed-size records, one file per bucket or shard."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib

from jaxtyping import Integer
import numpy as np


class RecordFiles:
  """Numbered files to which records are appended.

  Opened anew for every append: there may be more of them than a process may
  hold open.
  """

  def __init__(self, folder: pathlib.Path, name: str, dtype: np.dtype):
    self._folder = folder / name
    self._folder.mkdir(parents=True)
    self.dtype = dtype

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / str(number)

  def append(self, numbers: Integer[np.ndarray, 'records'], records) -> None:
    """Appends every record to the file of its number, in the given order."""
    if not len(numbers):
      return
    order = np.argsort(numbers, kind='stable')
    sorted_numbers = numbers[order]
    wanted, starts = np.unique(sorted_numbers, return_index=True)
    stops = [*starts[1:], len(order)]
    for number, start, stop in zip(wanted, starts, stops, strict=True):
      with open(self._path(int(number)), 'ab') as file:
        file.write(np.ascontiguousarray(records[order[start:stop]]).data)

  def count(self, number: int) -> int:
    """Records in the file of this number."""
    try:
      return self._path(number).stat().st_size // self.dtype.itemsize
    except FileNotFoundError:
      return 0

  def read(self, number: int) -> np.ndarray:
    """All records of this number."""
    if not self.count(number):
      return np.zeros(0, self.dtype)
    return np.fromfile(self._path(number), self.dtype)

  def pieces(self, number: int, sizes: list[int]) -> Iterator[np.ndarray]:
    """Its records in pieces of these sizes, without reading all at once."""
    with open(self._path(number), 'rb') as file:
      for size in sizes:
        yield np.fromfile(file, self.dtype, size)

  def remove(self, number: int) -> None:
    """Frees the disk of what is not needed any more."""
    self._path(number).unlink(missing_ok=True)
