"""What `btr report` writes beside its rows: page, record, pictures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import shlex
from typing import Any

from btr_jax.data import records
from btr_jax.evaluation.study import figures, ledger, page
from btr_jax.tools import common

SUMMARY_FILE = 'summary.json'
PAGE, RECORD = 'report.md', 'report.json'
# Not part of what a table is made from.
_NOT_SHOWN = (
  *('output', 'publish', 'restart', 'dry_run', 'tables', 'systems'),
  'tasks',
)
_PATHS = (
  *('reader', 'questions', 'retrieved', 'corpus', 'language_model'),
  *('lora', 'calibration', 'phrases', 'span_reader'),
)
_GUIDE = 'docs/report.md'


def _text(name: str, value: Any) -> str:
  if value is None:
    return 'all'  # of --limit; of others None is the default
  if isinstance(value, (list, tuple)):
    return ','.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)
  if name in _PATHS:
    return common.short_path(value)
  return f'{value:g}' if isinstance(value, float) else str(value)


def command(
  parser: argparse.ArgumentParser, arguments: argparse.Namespace, table: str
) -> str:
  """What to type for one table: all that differs from the defaults.

  Args:
    parser: that read the arguments.
    arguments: of this run.
    table: its name.

  Returns:
    A line for a shell. Absolute paths are cut to their end: they are of the
    machine that ran it.
  """
  parts = ['btr', 'report']
  for action in parser._actions:
    name = action.dest
    if name in _NOT_SHOWN or not hasattr(arguments, name):
      continue
    value = getattr(arguments, name)
    if value == parser.get_default(name):
      continue
    option = action.option_strings[-1]
    if value is True:
      parts.append(option)
    elif name == 'readers':
      for reader, folder in value:
        parts += [option, f'{reader}={common.short_path(folder)}']
    else:
      parts += [option, _text(name, value)]
  return ' '.join(map(shlex.quote, [*parts, '--tables', table]))


def check_folder(folder: str) -> None:
  """Sees that writing a page into a folder overwrites no other text.

  Raises:
    UserError: there is another report.md.
  """
  path = pathlib.Path(folder) / PAGE
  if not path.is_file():
    return
  with open(path, encoding='utf-8') as file:
    first = file.readline()
  if first != f'{page.TITLE}\n':
    raise common.UserError(
      f'{path} was not written by `btr report` (it begins with '
      f'{first.strip()!r}); name another folder.'
    )


def _summaries(folder: pathlib.Path, first: str) -> list[Mapping[str, Any]]:
  """Of all tasks in the folder; the task that is always there leads."""
  found = []
  for path in sorted(folder.glob(f'*/{SUMMARY_FILE}')):
    try:
      value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise ValueError(
        f'{path} is damaged ({error}); run `btr report` of its task again.'
      ) from error
    found.append(value)
  return sorted(found, key=lambda s: (s['task'] != first, s['task']))


def _guide(folder: pathlib.Path) -> str:
  """Where the guide is, from a folder that may stand among the documents."""
  parts = folder.resolve().parts
  if 'docs' not in parts[-2:]:
    return f'`{_GUIDE}`'
  up = '../' * (len(parts) - 1 - parts.index('docs'))
  return f'[{_GUIDE}]({up}report.md)'


def write(
  summary: Mapping[str, Any],
  kept: ledger.Ledger,
  folders: Sequence[str],
) -> None:
  """Writes the task's summary, and the page of all tasks into each folder.

  Args:
    summary: of this task, see `page.markdown`.
    kept: the task's rows, whose folder takes the summary.
    folders: of the report, the first one being that of the rows.
  """
  records.write_json(kept.folder / SUMMARY_FILE, summary)
  everything = _summaries(kept.folder.parent, 'factbook')
  for folder in map(pathlib.Path, folders):
    pictures: dict[str, dict[str, str]] = {}
    for task in everything:
      for table in task['tables']:
        if figures.draws(table):
          name = f'report_{task["task"]}_{table["name"]}.png'
          figures.draw(task['task'], table, folder / name)
          pictures.setdefault(task['task'], {})[table['name']] = name
    text = page.markdown(everything, pictures, _guide(folder))
    with records.atomic_writer(folder / PAGE) as file:
      file.write(text)
    records.write_json(folder / RECORD, {'tasks': everything})
    common.say(f'tables written to {folder / PAGE}')
