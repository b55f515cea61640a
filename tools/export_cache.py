"""`btr export-cache`: plans, builds and verifies the cache of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shutil
import time
from typing import Any

import jax
import rich.table

from btr_jax import cache as cache_lib
from btr_jax.cache import compression, verify
from btr_jax.cache.compression import verify as verify_compressed
from btr_jax.evaluation import storage
from btr_jax.models import reader_files
from btr_jax.tools import caches, common, corpora, memmap_cache, systems
from btr_jax.tools import progress as progress_lib


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'export-cache',
    'plan: bytes, shards, time and free disk, without writing anything. '
    'build: runs the lower layers over all passages and writes their bits; '
    'goes on where an interrupted build stopped. verify: holds every file '
    'against the checksums. memmap: writes a cache as arrays that NumPy maps '
    '(`btr export-cache memmap --help`).',
    'btr export-cache build --codec residual',
  )
  parser.add_argument('action', choices=['plan', 'build', 'verify'])
  parser.add_argument(
    '--reader', help='reader or family folder; the one that ships by default'
  )
  parser.add_argument(
    '--codec',
    help="calibrated, residual, sign or float; the reader's by default",
  )
  parser.add_argument(
    '--corpus',
    default=corpora.FACTBOOK,
    help='factbook, or a file of {"id", "title", "text"} lines (factbook)',
  )
  parser.add_argument(
    '--cache', help='folder; one under $BTR_DATA_DIR/caches by default'
  )
  parser.add_argument(
    '--batch',
    type=common.positive,
    default=caches.BATCH_SIZE,
    help=f'passages encoded at once ({caches.BATCH_SIZE})',
  )
  parser.add_argument(
    '--build',
    action='store_true',
    help='prepare the Factbook if it is not there',
  )
  return parser


def _verify(path: pathlib.Path) -> int:
  compressed = compression.is_compressed(path)
  check = verify_compressed.verify if compressed else verify.verify
  with progress_lib.Progress('verify') as progress:
    problems = check(path, progress)
  for problem in problems:
    common.console().print(f'{problem}', soft_wrap=True, markup=False)
  if not problems:
    common.console().print(f'{path}: every file is as it was written')
  else:
    common.say('error: start the same build again; it mends what is damaged')
  common.print_json(
    {
      'command': 'export-cache verify',
      'path': str(path),
      'problems': [str(problem) for problem in problems],
    }
  )
  return common.EXIT_USER_ERROR if problems else common.EXIT_OK


def _seconds_to_build(
  reader: reader_files.LoadedReader, corpus: corpora.Corpus, batch_size: int
) -> float:
  """The whole corpus at the speed of its first batch, fully padded."""
  tokens = caches.passage_tokens(reader, corpus)(
    0, min(batch_size, len(corpus.passages))
  )
  encode = caches.encode_function(reader)
  jax.block_until_ready(encode(tokens))  # compiles
  start = time.perf_counter()
  jax.block_until_ready(encode(tokens))
  seconds = time.perf_counter() - start
  return seconds * len(corpus.passages) / len(tokens)


def _plan(
  path: pathlib.Path,
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  batch_size: int,
) -> dict[str, Any]:
  plan = caches.plan(reader, corpus)
  existing = path.absolute()
  while not existing.exists():
    existing = existing.parent
  free = shutil.disk_usage(existing).free
  seconds = _seconds_to_build(reader, corpus, batch_size)
  tokens = plan.layout.num_tokens
  table = rich.table.Table(title=f'plan of {path}', show_header=False)
  for name, value in (
    ('passages', f'{plan.layout.num_passages:,}'),
    ('tokens', f'{tokens:,}'),
    ('shards', f'{plan.num_shards:,}'),
    ('codec', caches.fingerprints(reader, corpus)['codec']),
    ('size', storage.amount(plan.data_bytes)),
    ('bytes per token', f'{plan.data_bytes / max(tokens, 1):.2f}'),
    ('free on that disk', storage.amount(free)),
    ('time, at most about', progress_lib.duration(seconds)),
  ):
    table.add_row(name, value)
  common.console().print(table)
  plan.check_free_space(path)
  return {
    'passages': plan.layout.num_passages,
    'tokens': tokens,
    'shards': plan.num_shards,
    'bytes': plan.data_bytes,
    'free_bytes': free,
    'seconds_estimated': seconds,
  }


def _build(
  path: pathlib.Path,
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  batch_size: int,
) -> dict[str, Any]:
  start = time.perf_counter()
  caches.build(path, reader, corpus, batch_size=batch_size)
  seconds = time.perf_counter() - start
  report = cache_lib.storage_report(path)
  console = common.console()
  console.print(storage.table(report))
  console.print(f'{path}: complete after {progress_lib.duration(seconds)}')
  return {'seconds': seconds, **report}


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  if argv and argv[0] == 'memmap':
    return memmap_cache.main(argv[1:])
  arguments = make_parser().parse_args(argv)
  if arguments.action == 'verify' and arguments.cache:
    return _verify(pathlib.Path(arguments.cache))
  reader_path = systems.reader_path(arguments.reader)
  (system,) = systems.systems_of(reader_path, 'binary', arguments.codec)
  reader = systems.load(reader_path, system)
  corpus = corpora.load_corpus(arguments.corpus, build=arguments.build)
  path = (
    pathlib.Path(arguments.cache)
    if arguments.cache
    else caches.default_path(reader, corpus)
  )
  if arguments.action == 'verify':
    return _verify(path)
  run = _plan if arguments.action == 'plan' else _build
  common.print_json(
    {
      'command': f'export-cache {arguments.action}',
      'path': str(path),
      **run(path, reader, corpus, arguments.batch),
    }
  )
  return common.EXIT_OK
