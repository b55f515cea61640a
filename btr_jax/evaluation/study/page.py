"""The tables of a report as people read them: Markdown, and a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from btr_jax.evaluation.study import paper, tables

TITLE = '# Report'
PAPER_PASSAGES = (
  "The paper's own (NQ, base; Atlas EM / BTR EM / speed-up): {rows}."
)
HOW_TO_READ = """\
Written by `btr report`; how to run, resume and read it: {guide}. All rows of a
table read the same questions and passages on one machine. In brackets: 95 %
bootstrap intervals over the questions (of ratios and differences over the same
questions), and the least and most of the repeats of a speed. Each row took
turns with the joint reader, batch by batch, so its speed-up is of one run;
questions per second leave retrieval and compilation out. Bytes per token are
all files of the cache, token ids and manifest included. **Columns headed
"paper" are the paper's own figures**: other readers, a corpus of 32.1 million
passages, 40 passages per question and an A100; they are there to compare
trends, not levels."""


def _number(value: float | None, digits: int) -> str:
  return '-' if value is None else f'{value:.{digits}f}'


def cell_text(value: Any, digits: int, unit: str = '') -> str:
  """A cell: `71.0 [65.9, 76.1]`; `-` for none."""
  if value is None:
    return '-'
  if isinstance(value, Mapping):
    keys = ('value', 'low', 'high')
    if 'median' in value:
      keys = ('median', 'smallest', 'largest')
    middle, low, high = (_number(value[key], digits) for key in keys)
    return f'{middle}{unit}' + (f' [{low}, {high}]' if low != '-' else '')
  return f'{value:.{digits}f}{unit}'


def _texts(table: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
  texts = []
  for column in table['columns']:
    value = row['cells'].get(column['key'])
    texts.append(cell_text(value, column['digits'], column['unit']))
  if row['status'] != tables.RUN:
    texts[0] = row['status']
  return texts


def _reasons(table: Mapping[str, Any]) -> list[str]:
  """`status: reason: labels`, lines with the same reason together."""
  found: dict[tuple[str, str], list[str]] = {}
  for row in table['rows']:
    if row['status'] != tables.RUN:
      key = (row['status'], row['reason'])
      found.setdefault(key, []).append(row['label'])
  return [
    f'{status}: {", ".join(labels)}. {reason}'
    for (status, reason), labels in found.items()
  ]


def console_table(
  summary: Mapping[str, Any], table: Mapping[str, Any]
) -> rich.table.Table:
  """A table for rich's console, without the paper's columns.

  Args:
    summary: of the task, see `markdown`.
    table: one of its tables.

  Returns:
    The table; why rows were not run stands below it.
  """
  kept = [
    number
    for number, column in enumerate(table['columns'])
    if not column['key'].startswith('paper')
  ]
  result = rich.table.Table(
    title=f'{summary["task"]}: {table["title"]} (paper: {table["paper"]})',
    caption='\n'.join(_reasons(table)) or None,
    caption_justify='left',
  )
  result.add_column(table['name'])
  for number in kept:
    result.add_column(table['columns'][number]['title'], justify='right')
  for row in table['rows']:
    texts = _texts(table, row)
    result.add_row(row['label'], *(texts[number] for number in kept))
  return result


def _markdown_table(table: Mapping[str, Any]) -> list[str]:
  titles = [column['title'] for column in table['columns']]
  lines = [
    f'| {table["name"]} | {" | ".join(titles)} |',
    '|---' * (len(titles) + 1) + '|',
  ]
  for row in table['rows']:
    label = row['label'].replace('|', r'\|')
    lines.append(f'| {label} | {" | ".join(_texts(table, row))} |')
  return lines


def _conditions(summary: Mapping[str, Any]) -> str:
  found = summary['conditions']
  recall = ', '.join(f'@{k} {v:.1f} %' for k, v in found['recall'].items())
  machine = found['machine']
  text = (
    f'{found["questions"]} questions of {found["source"]} '
    f'(seeds {", ".join(map(str, found["seeds"]))}), '
    f'{found["passages"]} passages unless told, batch {found["batch"]}, '
    f'{machine["cores"]} cores of {machine["cpu"]}, '
    f'devices {", ".join(machine["devices"])}. '
    f'Reader `{found["reader"]}`. Caches hold {found["cached"]}.'
  )
  if recall:
    text += f' Recall of the passages, the ceiling: {recall}.'
  return text


def _task(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
  lines = [f'## {summary["task"]}', '', _conditions(summary), '']
  for table in summary['tables']:
    lines += [f'### {table["title"]}', '']
    lines += [f"Like the paper's {table['paper']}.", '']
    lines += [*_markdown_table(table), '']
    for reason in _reasons(table):
      lines += [f'- {reason}']
    if _reasons(table):
      lines.append('')
    if table['name'] == 'passages':
      rows = ', '.join(
        f'{count}: {joint} / {btr} / {speedup}x'
        for count, (joint, btr, speedup) in paper.PASSAGES.items()
      )
      lines += [PAPER_PASSAGES.format(rows=rows), '']
    lines += [f'    {table["command"]}', '']
    if table['name'] in pictures:
      title = f'{summary["task"]}: {table["title"].lower()}'
      lines += [f'![{title}]({pictures[table["name"]]})', '']
  for note in summary['notes']:
    lines += [f'- {note}']
  return [*lines, '']


def markdown(
  summaries: Sequence[Mapping[str, Any]],
  pictures: Mapping[str, Mapping[str, str]],
  guide: str,
) -> str:
  """The whole page.

  Args:
    summaries: one per task: task, conditions, tables (`tables.Maker.make`,
      with `command`), notes.
    pictures: task -> table -> link to its picture.
    guide: where the page about the command is, as Markdown.

  Returns:
    Markdown.
  """
  lines = [TITLE, '', HOW_TO_READ.format(guide=guide), '']
  for summary in summaries:
    lines += _task(summary, pictures.get(summary['task'], {}))
  return '\n'.join(lines).rstrip() + '\n'
