"""`btr ask`: answers questions from a corpus, and says where the time went."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import rich.markup
import rich.table

from btr_jax import config as config_lib
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import caches, common, corpora, systems


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'ask',
    'Retrieves passages by BM25, reads the answer from their bits, and shows '
    'the passages and the time of each part. A folder of documents is cut '
    'into passages, indexed and encoded the first time, and again when its '
    'files change.',
    'btr ask --corpus my_folder/ "What is the capital of Peru?"',
  )
  parser.add_argument('question', nargs='+', help='one or more, in quotes')
  parser.add_argument(
    '--reader', help='reader or family folder; the one that ships by default'
  )
  parser.add_argument(
    '--mode',
    default='binary',
    help='joint, decomposed or binary (binary, from the cache)',
  )
  parser.add_argument('--codec', help="of mode binary; the reader's by default")
  systems.add_bits_argument(parser)
  parser.add_argument(
    '--corpus',
    default=corpora.FACTBOOK,
    help='factbook; a folder of .txt, .md, .html, .tsv, .jsonl files, or one '
    'such file; or what `btr prepare-corpus` wrote (factbook)',
  )
  parser.add_argument(
    '--cache', help='folder; one under $BTR_DATA_DIR/caches by default'
  )
  parser.add_argument(
    '--passages',
    type=common.positive,
    help="passages read per question; the reader's limit by default",
  )
  parser.add_argument(
    '--build',
    action='store_true',
    help='make what is missing of the corpus and its cache; for a folder of '
    'documents that is done anyway',
  )
  return parser


def show(
  answer: engine_lib.Answer, compile_seconds: float, sources: bool = False
) -> None:
  """Prints one answer for people.

  Args:
    answer: of the engine.
    compile_seconds: spent before it.
    sources: show the passages' ids, which name a user's own files.
  """
  console = common.console()
  console.print()
  console.print(f'[bold]{rich.markup.escape(answer.question)}[/bold]')
  text = rich.markup.escape(answer.text) or '(no answer)'
  console.print(f'  [bold green]{text}[/bold green]')
  passages = rich.table.Table(
    title='read from', show_header=False, title_justify='left', expand=True
  )
  passages.add_column(justify='right', width=2)
  if sources:
    passages.add_column('source', overflow='fold', ratio=1)
  passages.add_column('title', overflow='ellipsis', no_wrap=True, ratio=1)
  passages.add_column('text', overflow='ellipsis', no_wrap=True, ratio=2)
  for rank, passage in enumerate(answer.passages, start=1):
    passages.add_row(
      str(rank),
      *([rich.markup.escape(passage.id)] if sources else []),
      rich.markup.escape(passage.title),
      rich.markup.escape(passage.text),
    )
  console.print(passages)
  parts = answer.timings.to_dict()
  line = ', '.join(
    f'{name.replace("_", " ")} {1000 * seconds:.1f} ms'
    for name, seconds in parts.items()
  )
  console.print(
    f'{line}; together {1000 * answer.timings.total:.1f} ms '
    f'({compile_seconds:.1f} s to compile before, once per shape)'
  )


def answer_record(
  answer: engine_lib.Answer, compile_seconds: float
) -> dict[str, object]:
  """The answer for JSON."""
  return {
    'question': answer.question,
    'answer': answer.text,
    'passages': [{'id': p.id, 'title': p.title} for p in answer.passages],
    'seconds': {**answer.timings.to_dict(), 'total': answer.timings.total},
    'compile_seconds': compile_seconds,
  }


def ask(
  engine: engine_lib.Engine, questions: Sequence[str], sources: bool = False
) -> list[dict[str, object]]:
  """Asks one question after the other and shows the answers.

  A question that met a new shape is asked once more, so that the times are
  those of a program that runs; compilation is told beside them.
  """
  found = []
  for question in questions:
    compiled = engine.compile_seconds
    (answer,) = engine.answer([question])
    compiled = engine.compile_seconds - compiled
    if compiled:
      (answer,) = engine.answer([question])
    show(answer, compiled, sources)
    found.append(answer_record(answer, compiled))
  return found


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  for question in arguments.question:
    if not question.strip():
      raise common.UserError(
        f'the question {question!r} is empty; expected some text, such as '
        '"What is the capital of Peru?".'
      )
  reader_path = systems.reader_path(arguments.reader)
  if arguments.mode == 'all':
    raise common.UserError(
      '--mode all is for `btr evaluate`; here choose joint, decomposed or '
      'binary.'
    )
  (system,) = systems.systems_of(
    reader_path, arguments.mode, systems.codec_of(arguments)
  )
  reader = systems.load(reader_path, system)
  corpus = corpora.load_corpus(arguments.corpus, build=arguments.build)
  cache = None
  if system.cached:
    path = (
      pathlib.Path(arguments.cache)
      if arguments.cache
      else caches.default_path(reader, corpus)
    )
    cache = caches.open_cache(
      path,
      reader,
      corpus,
      build_missing=arguments.build or corpus.documents,
      command=caches.build_command(path, arguments),
    )
  elif arguments.cache:
    raise common.UserError(
      f'--cache {arguments.cache} has no meaning in mode {arguments.mode}, '
      'which reads none; leave it out, or use --mode binary.'
    )
  engine = engine_lib.Engine(
    reader,
    corpus.passages,
    corpus.retriever,
    cache,
    mode=system.mode,
    num_passages=arguments.passages,
    config=config_lib.EngineConfig(fused=False),  # The parts are told.
  )
  answers = ask(engine, arguments.question, sources=corpus.documents)
  common.print_json(
    {'command': 'ask', 'system': system.name, 'answers': answers}
  )
  return common.EXIT_OK
