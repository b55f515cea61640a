"""A prepared corpus on disk: passages read by number, none held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import mmap
import os
import pathlib
from typing import Any, overload

import numpy as np

from btr_jax.data import records
from btr_jax.data.records import Passage

OFFSETS_FILE = 'passages.offsets.npy'
REPORT_FILE = 'report.json'
PROBLEMS_FILE = 'problems.txt'
KIND = 'corpus'
FORMAT_VERSION = 1


def fingerprint_line(passage: Passage) -> bytes:
  """What a passage adds to the SHA-256 that is a corpus's fingerprint."""
  fields = [passage.id, passage.title, passage.text]
  return json.dumps(fields).encode() + b'\n'


def read_report(folder: str | os.PathLike) -> dict[str, Any] | None:
  """The report of a prepared corpus; None if the folder holds none."""
  path = pathlib.Path(folder) / REPORT_FILE
  try:
    report = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  if not isinstance(report, dict) or report.get('kind') != KIND:
    return None
  return report


class PassageFile(Sequence[Passage]):
  """The passages of a prepared folder, mapped; fit for several threads."""

  def __init__(self, folder: str | os.PathLike):
    """Opens passages.jsonl and its offsets.

    Raises:
      FileNotFoundError: the folder holds no prepared corpus.
      ValueError: another version wrote it, or its files do not fit together.
    """
    folder = pathlib.Path(folder)
    report = read_report(folder)
    advice = 'Prepare it again: btr prepare-corpus INPUT --output FOLDER.'
    if report is None:
      raise FileNotFoundError(
        f'{folder} holds no prepared corpus ({REPORT_FILE} of kind {KIND!r} '
        f'is missing). {advice}'
      )
    if report.get('format_version') != FORMAT_VERSION:
      raise ValueError(
        f'{folder}: format version {report.get("format_version")!r}, expected '
        f'{FORMAT_VERSION}. {advice}'
      )
    self._path = folder / records.PASSAGES_FILE
    self._offsets = np.load(folder / OFFSETS_FILE, mmap_mode='r')
    size = self._path.stat().st_size
    if (
      len(self._offsets) != report['passages'] + 1
      or int(self._offsets[-1]) != size
    ):
      raise ValueError(
        f'{self._path} has {size:,} bytes and {OFFSETS_FILE} '
        f'{len(self._offsets) - 1:,} passages; expected {report["bytes"]:,} '
        f'bytes and {report["passages"]:,} passages. {advice}'
      )
    self.fingerprint: str = report['fingerprint']
    with open(self._path, 'rb') as file:
      self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

  def __len__(self) -> int:
    return len(self._offsets) - 1

  @overload
  def __getitem__(self, index: int) -> Passage: ...

  @overload
  def __getitem__(self, index: slice) -> list[Passage]: ...

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self._passage(i) for i in range(*index.indices(len(self)))]
    number = int(index)
    if not -len(self) <= number < len(self):
      raise IndexError(f'passage {number} of {len(self)}')
    return self._passage(number % len(self))

  def __iter__(self) -> Iterator[Passage]:
    return map(self._passage, range(len(self)))

  def _passage(self, number: int) -> Passage:
    start, stop = self._offsets[number], self._offsets[number + 1]
    value = json.loads(self._bytes[int(start) : int(stop)])
    return Passage(value['id'], value['title'], value['text'])
