"""The records of a report on disk: one JSON file per row.

  FOLDER/TASK/run.json         what all rows of the task have in common
  FOLDER/TASK/rows/SLUG.json   one row, written when it is done

A row is not run again while its fingerprint stays: its setting, the readers
and the questions. Rows of other questions or another machine do not belong in
one table, so a folder that holds such is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import shutil
from typing import Any

from btr_jax.data import records

VERSION = 1
RUN_FILE = 'run.json'
ROWS = 'rows'


class OtherRunError(ValueError):
  """The folder holds rows that may not stand beside those of this run."""


def _read(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}); remove it, and its row runs again.'
    ) from error


class Ledger:
  """The rows of one task."""

  def __init__(self, folder: pathlib.Path, task: str):
    """Nothing is read or written yet.

    Args:
      folder: of the report.
      task: its name, which names its folder.
    """
    self.folder = folder / task
    self.task = task

  def claim(
    self,
    common: Mapping[str, Any],
    *,
    restart: bool = False,
    look_only: bool = False,
  ) -> None:
    """Makes the folder the place of a run, or sees that it is.

    Args:
      common: what all rows share, as JSON values.
      restart: forget the rows that are there.
      look_only: write nothing.

    Raises:
      OtherRunError: it holds rows of another run; with what differs.
      ValueError: its run.json is damaged.
    """
    path = self.folder / RUN_FILE
    wanted = json.loads(json.dumps({'version': VERSION, **common}))
    if restart and not look_only and self.folder.exists():
      if not path.is_file() and any(self.folder.iterdir()):
        raise OtherRunError(
          f'{self.folder} holds other files and no {RUN_FILE}, so it is not '
          'emptied; give --output another folder.'
        )
      shutil.rmtree(self.folder / ROWS, ignore_errors=True)
      path.unlink(missing_ok=True)
    if path.is_file():
      found = _read(path)
      if found != wanted:
        raise OtherRunError(self._difference(found, wanted))
      return
    if (self.folder / ROWS).is_dir():
      raise OtherRunError(
        f'{self.folder} has rows but no {RUN_FILE} that says of what; use '
        '--restart to forget them, or another --output.'
      )
    if not look_only:
      records.write_json(path, wanted)

  def _difference(self, found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
      found = {}
    lines = [
      f'  {name}: the folder has {found.get(name, "nothing")!r}, this run '
      f'{wanted.get(name, "nothing")!r}'
      for name in sorted({*found, *wanted})
      if found.get(name) != wanted.get(name)
    ]
    return '\n'.join(
      [
        f'{self.folder} holds rows of another run, which may not stand in one '
        'table with this one:',
        *lines,
        'Repeat the command of that run, give --output another folder, or '
        'use --restart to forget its rows.',
      ]
    )

  def path(self, slug: str) -> pathlib.Path:
    """The file of a row."""
    return self.folder / ROWS / f'{slug}.json'

  def read(self, slug: str, fingerprint: str) -> dict[str, Any] | None:
    """The row, if it is there and of this fingerprint.

    Raises:
      ValueError: its file is damaged.
    """
    path = self.path(slug)
    if not path.is_file():
      return None
    record = _read(path)
    if not isinstance(record, dict) or record.get('fingerprint') != fingerprint:
      return None
    return record

  def write(self, slug: str, record: Mapping[str, Any]) -> None:
    """Writes a row, whole or not at all."""
    records.write_json(self.path(slug), record)
