"""`btr prepare-questions`: a benchmark's files as records, and their faults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os

from rich import table as rich_table

from btr_jax.data import records
from btr_jax.data.benchmarks import preparation, table, windows
from btr_jax.tools import common, questions


def make_parser() -> common.Parser:
  """The arguments."""
  names = ', '.join(table.BENCHMARKS)
  parser = common.Parser(
    'prepare-questions',
    f'Reads the questions of a benchmark ({names}) in its public format, '
    'joins them with their passages, and writes one question per line in the '
    'format of DPR. Lines that cannot be used are counted and named.',
    'btr prepare-questions --task nq --questions NQ-open.dev.jsonl.gz '
    '--retrieved dev.top20.tsv.gz --corpus psgs_w100.tsv.xz --output dev.jsonl',
  )
  add = parser.add_argument
  add('--questions', help='file; for mmlu also a folder of CSV files')
  questions.add_task_arguments(parser, required=True)
  add('--corpus', help='TSV of id, text, title, or objects with these')
  add(
    '--num-passages',
    type=common.positive,
    help="kept per question; the paper's number by default",
  )
  add(
    '--training',
    action='store_true',
    help='leave out questions without passages',
  )
  add(
    '--windows',
    type=common.positive,
    metavar='WORDS',
    help='for training: two windows of so many words in place of the passages, '
    'one that answers and one that does not; questions without are left out',
  )
  add(
    '--answered-within',
    type=common.positive,
    default=5,
    help='--windows: first passages that an answer must stand in (5)',
  )
  add('--seed', type=int, default=0, help='--windows: of what is drawn (0)')
  add('--output', required=True, help='the file to write (JSON Lines)')
  return parser


def _draw_windows(arguments: argparse.Namespace) -> dict[str, int]:
  """Replaces the prepared questions by their windows."""
  whole = records.read_records(arguments.output)
  drawn = windows.draw(
    whole, arguments.windows, arguments.answered_within, arguments.seed
  )
  kept = records.write_records(arguments.output, drawn)
  if not kept:
    raise common.UserError(
      f'{arguments.output}: none of {len(whole)} questions has an answer in '
      f'its first {arguments.answered_within} passages and a passage without '
      'one; expected passages that tell has_answer, as `btr retrieve` writes.'
    )
  return {'windows': arguments.windows, 'kept': kept}


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  inputs = questions.inputs(arguments)
  report = preparation.prepare(inputs, arguments.output)
  drawn = _draw_windows(arguments) if arguments.windows else {}
  shown = rich_table.Table(
    title=f'{arguments.task}: {os.path.basename(arguments.questions)}'
  )
  shown.add_column('')
  shown.add_column('', justify='right')
  for name, value in (
    ('questions', report.questions),
    ('with passages', report.with_passages),
    ('passages', report.passages),
    *([('questions with windows', drawn['kept'])] if drawn else []),
  ):
    shown.add_row(name, f'{value:,}')
  for file in report.problems:
    for kind, number in {**file['left_out'], **file['mended']}.items():
      verb = 'left out' if kind in file['left_out'] else 'kept'
      shown.add_row(f'{kind} ({verb})', f'{number:,}')
  common.console().print(shown)
  for message in report.messages():
    common.say(message)
  common.print_json(
    {
      'command': 'prepare-questions',
      'task': arguments.task,
      'output': arguments.output,
      **report.to_dict(),
      **drawn,
    }
  )
  return common.EXIT_OK
