"""`btr benchmark-retrieval`: indexes beside bm25s and faiss used directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import bm25s
import numpy as np
import rich.table

from btr_jax.data import question_files, records
from btr_jax.data.problems import Problems
from btr_jax.evaluation import environment
from btr_jax.retrieval import binary, bm25, dense, embeddings, encoder
from btr_jax.tools import common, corpora
from btr_jax.tools import progress as progress_lib

# As the corpora of users are indexed.
_BM25 = {'k1': 0.9, 'b': 0.4}


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'benchmark-retrieval',
    'Builds and asks the indexes of this package and, in the same run and by '
    'turns, bm25s and faiss used directly, on the same passages and '
    'questions. Medians of the repeats, with their spread.',
    'btr benchmark-retrieval --corpus wiki/ --questions nq.jsonl '
    '--embeddings indexes/wiki-0123',
  )
  add = parser.add_argument
  add('--corpus', required=True, help='as `btr ask`')
  add('--questions', required=True, help='as `btr retrieve`')
  add(
    '--embeddings',
    type=pathlib.Path,
    help='folder that `btr retrieve --method dense` wrote; without one faiss '
    'is left out',
  )
  add(
    '--passages', type=common.positive, default=50_000, help='indexed (50000)'
  )
  add('--limit', type=common.positive, default=200, help='questions (200)')
  add('--hits', type=common.positive, default=40, help='per question (40)')
  add('--repeats', type=common.positive, default=5, help='of each (5)')
  add('--record', help='write the report with the environment to this file')
  return parser


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Seconds of ours and theirs, taken by turns.

  Attributes:
    name: what was done.
    ours: seconds, a repeat each.
    theirs: seconds, a repeat each.
  """

  name: str
  ours: tuple[float, ...]
  theirs: tuple[float, ...]

  def to_dict(self) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
    return {
      'name': self.name,
      'ours_seconds': statistics.median(self.ours),
      'theirs_seconds': statistics.median(self.theirs),
      'ratio': statistics.median(ratios),
      'ratio_min': min(ratios),
      'ratio_max': max(ratios),
      'repeats': len(ratios),
    }


def compare(
  name: str,
  ours: Callable[[], object],
  theirs: Callable[[], object],
  repeats: int,
) -> Comparison:
  """Times two functions by turns, after one call of each that is not timed."""
  seconds: tuple[list[float], list[float]] = ([], [])
  ours()
  theirs()
  with progress_lib.Progress(name) as progress:
    for repeat in range(repeats):
      for times, function in zip(seconds, (ours, theirs), strict=True):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
      progress(repeat + 1, repeats)
  return Comparison(name, tuple(seconds[0]), tuple(seconds[1]))


def _bm25(
  passages: Sequence[records.Passage],
  questions: Sequence[str],
  hits: int,
  repeats: int,
) -> list[Comparison]:
  def build_ours() -> bm25.Bm25Retriever:
    return bm25.Bm25Retriever.build(passages, **_BM25)

  def tokenized(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, stopwords='en', show_progress=False)

  def build_theirs() -> bm25s.BM25:
    index = bm25s.BM25(**_BM25)
    texts = [f'{passage.title} {passage.text}' for passage in passages]
    index.index(tokenized(texts), show_progress=False)
    return index

  ours, theirs = build_ours(), build_theirs()

  def ask_theirs() -> object:
    return theirs.retrieve(
      tokenized(list(questions)), k=hits, show_progress=False
    )

  # A build takes long and differs little.
  return [
    compare('BM25, build', build_ours, build_theirs, min(repeats, 3)),
    compare(
      'BM25, questions',
      lambda: ours.search(questions, hits),
      ask_theirs,
      repeats,
    ),
  ]


def _faiss(folder: pathlib.Path, hits: int, repeats: int) -> list[Comparison]:
  faiss = encoder.import_extra('faiss')
  stored = np.load(folder / embeddings.EMBEDDINGS_FILE, mmap_mode='r')
  codes = np.load(folder / embeddings.CODES_FILE, mmap_mode='r')
  # Passages ask for passages: encoding questions is no part of the index.
  questions = np.asarray(stored[:: max(1, len(stored) // 200)], np.float32)
  bits = embeddings.sign_codes(questions)
  dim = stored.shape[1]

  def flat() -> Any:
    index = faiss.IndexFlatIP(dim)
    index.add(np.asarray(stored, np.float32))
    return index

  def bits_alone() -> Any:
    index = faiss.IndexBinaryFlat(dim)
    index.add(np.asarray(codes))
    return index

  def refined() -> Any:
    # All by faiss, from the embeddings: bits first, then float16.
    bits = faiss.IndexLSH(dim, dim, False, False)
    bits.metric_type = faiss.METRIC_INNER_PRODUCT
    halves = faiss.IndexScalarQuantizer(
      dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index = faiss.IndexRefine(bits, halves)
    index.add(np.asarray(stored, np.float32))
    index.k_factor = depth / hits
    return index, bits, halves  # the first does not keep the others

  texts = [''] * len(questions)
  exact = dense.DenseRetriever(
    lambda texts: questions, dense.ExactIndex(stored)
  )
  signs = dense.DenseRetriever(
    lambda texts: questions, binary.BinaryIndex(codes, stored)
  )
  depth = min(hits * binary.CANDIDATES, len(stored))
  theirs_flat, theirs_bits, theirs_refined = flat(), bits_alone(), refined()
  return [
    compare('exact, build', lambda: dense.ExactIndex(stored), flat, repeats),
    compare(
      'exact, questions',
      lambda: exact.search(texts, hits),
      lambda: theirs_flat.search(questions, hits),
      repeats,
    ),
    compare(
      'binary, from codes on disk',
      lambda: binary.BinaryIndex(codes, stored),
      bits_alone,
      repeats,
    ),
    compare(
      'binary with second look, questions',
      lambda: signs.search(texts, hits),
      lambda: theirs_refined[0].search(questions, hits),
      repeats,
    ),
    # Less work on their side: what the second look costs.
    compare(
      'binary, second look on our side only',
      lambda: signs.search(texts, hits),
      lambda: theirs_bits.search(bits, depth),
      repeats,
    ),
  ]


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  problems = Problems(arguments.questions)
  found = question_files.iterate_questions(arguments.questions, problems)
  questions = [record.question for record in found][: arguments.limit]
  corpus = corpora.load_corpus(arguments.corpus)
  passages = list(corpus.passages[: arguments.passages])
  rows = _bm25(passages, questions, arguments.hits, arguments.repeats)
  vectors = 0
  if arguments.embeddings:
    shape = np.load(
      arguments.embeddings / embeddings.EMBEDDINGS_FILE, mmap_mode='r'
    ).shape
    vectors = shape[0]
    rows += _faiss(arguments.embeddings, arguments.hits, arguments.repeats)
  table = rich.table.Table(
    title=f'{len(passages):,} passages, {len(questions)} questions, '
    f'{vectors:,} embeddings, {arguments.hits} hits'
  )
  table.add_column('')
  for title in ('ours, s', 'bm25s or faiss, s', 'ours / theirs', 'spread'):
    table.add_column(title, justify='right')
  values = [row.to_dict() for row in rows]
  for row in values:
    table.add_row(
      row['name'],
      f'{row["ours_seconds"]:.4f}',
      f'{row["theirs_seconds"]:.4f}',
      f'{row["ratio"]:.2f}',
      f'{row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}',
    )
  common.console().print(table)
  report = {
    'command': 'benchmark-retrieval',
    'passages': len(passages),
    'questions': len(questions),
    'embeddings': vectors,
    'hits': arguments.hits,
    'rows': values,
  }
  if arguments.record:
    records.write_json(
      arguments.record, {**report, 'environment': environment.environment()}
    )
  common.print_json(report)
  return common.EXIT_OK
