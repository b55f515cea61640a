"""What `btr report` can be asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import shlex

from btr_jax import config as config_lib
from btr_jax.evaluation.study import settings
from btr_jax.tools import (
  common,
  compress_cache,
  evaluate_arguments,
  questions,
  report_baselines,
)

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
FEW_PASSAGES = (1, 2, 4, 8)
PAPER_PASSAGES = (5, 10, 20, 30, 40)
# What --quick sets: it shows that everything runs, and no more.
QUICK = {
  'limit': 20,
  'speed_questions': 4,
  'repeats': 1,
  'ratios': [0.2, 0.5],
}


def _ratios(text: str) -> list[float]:
  return [compress_cache.ratio(part) for part in text.split(',')]


def _names(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]


def _reader(text: str) -> tuple[str, pathlib.Path]:
  name, equals, folder = text.partition('=')
  if not (name and equals and folder):
    raise argparse.ArgumentTypeError(
      f'{text!r} is not NAME=FOLDER, such as no-recovery=runs/x/reader'
    )
  return name, pathlib.Path(folder)


def _minutes(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = 0.0
  if not value > 0:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
  return value


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'report',
    "Runs every system of the paper's tables at hand on the same questions, "
    'one record per row, and writes the tables and pictures. The same command '
    'goes on where it was stopped; another task adds its tables to the same '
    'page. Rows that were not run say why.',
    'btr report --limit 300 --output report\n'
    '  btr report --task nq --reader FAMILY --questions nq.jsonl '
    '--retrieved nq_bm25.jsonl.gz --output report',
  )
  add = parser.add_argument
  add('--reader', help='family of readers; the one that ships by default')
  add(
    '--readers',
    type=_reader,
    action='append',
    default=[],
    metavar='NAME=FOLDER',
    help='a further reader with a codec for the ablations, such as '
    f'{" or ".join(settings.TRAINED_WITHOUT)}; may be repeated',
  )
  questions.add_task_arguments(parser, required=False)
  add(
    '--tasks',
    type=pathlib.Path,
    metavar='FILE',
    help='several tasks by one command: a line of arguments for each, on top '
    'of those given here; `--split test` is the Factbook',
  )
  add('--questions', help='of --task')
  add('--corpus', help='of --task: passages that --retrieved names by id')
  add(
    '--whole-corpus',
    action='store_true',
    help='build caches of all of --corpus, not of the passages of the '
    'questions alone',
  )
  add('--split', default='test', help='of the Factbook (test)')
  add(
    '--limit',
    type=evaluate_arguments.limit,
    default=300,
    help='questions of a sample, or `all` (300)',
  )
  add(
    '--seeds',
    type=common.integers,
    default=[0],
    help='one sample each; all their questions count (0)',
  )
  add('--passages', type=common.positive, help="the reader's limit by default")
  add(
    '--passage-counts',
    type=common.integers,
    help='of the table over passages (1,2,4,8 or 5,10,20,30,40)',
  )
  add(
    '--ratios',
    type=_ratios,
    default=list(RATIOS),
    help='of both tables over ratios (.05 to .5)',
  )
  add('--codec', help="of the ablations; the family's default")
  add(
    '--offline-ratio',
    type=compress_cache.ratio,
    default=0.2,
    help='of BTR in full (.2)',
  )
  add(
    '--runtime-ratio',
    type=compress_cache.ratio,
    default=0.2,
    help='of BTR in full, in passages and across them (.2)',
  )
  add(
    '--cross-period',
    type=common.positive,
    help='merge across passages before every so manyth layer of the decoder '
    '(3, or as many as there are)',
  )
  report_baselines.add_arguments(parser)
  add(
    '--tables',
    type=_names,
    default=list(settings.TABLES),
    help=f'only these of {", ".join(settings.TABLES)}',
  )
  add('--systems', type=_names, help='only these rows of the main table')
  evaluate_arguments.add_speed_arguments(parser)
  add(
    '--row-minutes',
    type=_minutes,
    default=15.0,
    help='rows whose answers take longer are not run (15)',
  )
  add(
    '--output',
    default='report_results',
    help='folder of the rows, the page and the pictures (report_results)',
  )
  add(
    '--publish',
    help='also write page, record and pictures (no rows) into this folder',
  )
  add('--restart', action='store_true', help="forget the task's rows")
  add(
    '--dry-run',
    action='store_true',
    help='show which rows are there and which would run, and run none',
  )
  add(
    '--quick',
    action='store_true',
    help='20 questions, one repeat, two ratios: shows that it runs',
  )
  return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """The arguments; --quick changes what is taken where nothing is given."""
  parser = make_parser()
  arguments = parser.parse_args(argv)
  if arguments.quick:
    parser.set_defaults(**QUICK)
    arguments = parser.parse_args(argv)
  arguments.parser = parser
  return arguments


def task_lines(path: pathlib.Path) -> list[list[str]]:
  """The arguments of each task in a file of --tasks; # begins a comment.

  Raises:
    UserError: there is no such file, or no task in it.
  """
  if not path.is_file():
    raise common.UserError(f'--tasks {path}: there is no such file.')
  text = path.read_text(encoding='utf-8')
  lines = [shlex.split(line, comments=True) for line in text.splitlines()]
  found = [line for line in lines if line]
  if not found:
    raise common.UserError(
      f'--tasks {path}: the file names no task; expected lines such as '
      '--task nq --reader FAMILY --questions nq.jsonl'
    )
  return found


def check(arguments: argparse.Namespace) -> None:
  """Refuses unknown tables and missing readers before anything is read."""
  for name in arguments.tables:
    config_lib.check_choice('--tables', name, settings.TABLES)
  if not arguments.tables:
    raise common.UserError(
      f'--tables names none; expected some of {", ".join(settings.TABLES)}.'
    )
  for name, folder in arguments.readers:
    if not folder.is_dir():
      raise common.UserError(f'--readers {name}={folder}: no such folder.')
