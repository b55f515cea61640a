"""`btr study-codes`: what each code loses of a reader's states, by bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import shlex
from typing import Any

import numpy as np
import rich.table

from btr_jax.data import records
from btr_jax.evaluation import code_answers, code_errors
from btr_jax.evaluation import environment as environment_lib
from btr_jax.models import reader_files
from btr_jax.tools import common, corpora, progress

_TOGETHER = 32
_FIT_PARTS = 6  # Five of six passages for statistics, the sixth to measure.


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'study-codes',
    "Codes states of real passages at a reader's split by every setting of the "
    'codecs, and by codes that are no codecs here, with statistics from five '
    'of six passages; tells the squared error on the others, and what the '
    'reader still answers. Nothing is trained. Memory: tokens * embed_dim * 4 '
    'bytes.',
    'btr study-codes --reader readers/small --corpus wiki --passages 2400',
  )
  add = parser.add_argument
  add('--reader', required=True, help='reader directory, or a family')
  corpora.add_draw_arguments(parser, passages=2400)
  add(
    '--codes',
    nargs='+',
    metavar='NAME',
    help='which settings of the codecs, in quotes (all): an unknown name is '
    'answered with all names',
  )
  add('--length', type=common.positive, help="tokens (the reader's)")
  add(
    '--rivals',
    action='store_true',
    help='also codes that are no codecs here; product quantization needs faiss',
  )
  add(
    '--answers',
    type=common.positive,
    help='questions to answer through every codec (none): the first so many of '
    '--questions after a shuffle',
  )
  add(
    '--questions',
    help='with passages, in the format of DPR (validation countries of the '
    'Factbook)',
  )
  add('--output', help='write the JSON record to this file')
  add('--plot', help='draw error against bytes into this PNG')
  return parser


def _batches(reader, corpus, count, length, seed):
  """Tokens of passages drawn at random, in two lists: fit, test."""
  test = count // _FIT_PARTS
  if not test:
    raise common.UserError(
      f'--passages {count}; expected at least {_FIT_PARTS}: one of '
      f'{_FIT_PARTS} is measured.'
    )
  tokens = corpora.drawn_tokens(corpus, reader.vocabulary, count, length, seed)

  def split(rows):
    return [
      rows[start : start + _TOGETHER]
      for start in range(0, len(rows), _TOGETHER)
    ]

  return split(tokens[test:]), split(tokens[:test])


def _answers(reader, questions, count, seed):
  """The scorer of `--answers`, or None."""
  if not count:
    return None
  found = corpora.load_questions(questions, 'validation')
  order = np.random.default_rng(seed).permutation(len(found))[:count]
  return code_answers.CodeAnswers(reader, [found[int(i)] for i in order])


def table(record: Mapping[str, Any]) -> rich.table.Table:
  """The rows, for people."""
  shown = rich.table.Table(
    title=f'{record["tokens"]["test"]:,} tokens, statistics from '
    f'{record["tokens"]["fit"]:,}; relative squared error'
  )
  shown.add_column('code')
  names = ['bytes/token', 'what attention reads', 'residual stream']
  if record['answers']:
    names += ['EM', 'F1', 'nats']
  for name in names:
    shown.add_column(name, justify='right')
  for row in record['rows']:
    cells = [f'{row["read"]:.4f}', f'{row["residual"]:.4f}']
    if 'em' in row:
      cells += [f'{row["em"]:.1f}', f'{row["f1"]:.1f}', f'{row["nats"]:.3f}']
    shown.add_row(row['code'], str(row['bytes_per_token']), *cells)
  return shown


def plot(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws error against bytes per token, both logarithmic, as a PNG.

  Codes of more than four bits a dimension are left to the table.
  """
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(8.5, 5), layout='constrained')
  axes = figure.subplots()
  families: dict[str, list[Mapping[str, Any]]] = {}
  most = record['embed_dim'] // 2 + 2
  for row in record['rows']:
    if row['bytes_per_token'] <= most:
      families.setdefault(_family(row['code']), []).append(row)
  for index, (name, rows) in enumerate(families.items()):
    rows = sorted(rows, key=lambda row: row['bytes_per_token'])
    axes.plot(
      [row['bytes_per_token'] for row in rows],
      [row['read'] for row in rows],
      color=f'C{index % 10}',
      marker='osD^vPX*'[index % 8],
      markersize=6,
      linewidth=1,
      linestyle='-' if len(rows) > 1 else 'none',
      label=name,
    )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.set_xlabel('bytes per token (left is better)')
  axes.set_ylabel('relative squared error in what attention reads')
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
  axes.spines[['top', 'right']].set_visible(False)
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=130, format='png')


def _family(code: str) -> str:
  """Rows that one line joins: those that differ by their bits alone."""
  if code.startswith('residual'):
    kind = [part for part in code.split(', ')[1:] if not part.endswith(' bits')]
    return ', '.join(['residual', *kind])
  return code.rsplit(', ', 1)[0] if code.endswith(' bytes') else code


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  reader = reader_files.load_reader(arguments.reader, mode='decomposed')
  chosen = code_errors.chosen_dials(reader.config.embed_dim, arguments.codes)
  corpus = corpora.load_corpus(arguments.corpus)
  length = arguments.length or reader.limits.passage_length
  fit, test = _batches(
    reader, corpus, arguments.passages, length, arguments.seed
  )
  total = len(fit) + len(test)
  with progress.Progress('states') as tell:
    fit_on = code_errors.StoredStates(reader, fit, lambda n: tell(n, total))
    test_on = code_errors.StoredStates(
      reader, test, lambda n: tell(len(fit) + n, total)
    )
  norm_scale = code_errors.split_norm_scale(
    reader.params, reader.config.split_layer
  )
  common.say('coding')
  rows = code_errors.measure(
    reader,
    fit_on,
    test_on,
    norm_scale,
    chosen,
    common.say,
    _answers(reader, arguments.questions, arguments.answers, arguments.seed),
  )
  if arguments.rivals:
    from btr_jax.evaluation import code_rivals

    rows += code_rivals.measure(reader, fit_on, test_on, norm_scale, common.say)
  record = {
    'command': shlex.join(['btr', 'study-codes', *argv]),
    'environment': environment_lib.environment(),
    'embed_dim': reader.config.embed_dim,
    'split_layer': reader.config.split_layer,
    'passages': arguments.passages,
    'answers': arguments.answers,
    'tokens': {
      name: int(sum((batch != 0).sum() for batch in batches))
      for name, batches in (('fit', fit), ('test', test))
    },
    'rows': rows,
  }
  common.console().print(table(record))
  if arguments.output:
    text = json.dumps(record, indent=2) + '\n'
    reader_files.write_atomically(arguments.output, text.encode())
  if arguments.plot:
    plot(record, arguments.plot)
  common.print_json(record)
  return common.EXIT_OK
