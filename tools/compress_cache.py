"""`btr compress-cache`: shares and merges the vectors of a cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import time

import numpy as np

from btr_jax import cache as cache_lib
from btr_jax.cache import compression
from btr_jax.data.vocabulary import Vocabulary
from btr_jax.evaluation import storage
from btr_jax.models import reader_files
from btr_jax.tools import common, systems
from btr_jax.tools import progress as progress_lib


def ratio(text: str) -> float:
  """A number from 0 to 0.5."""
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 0.5:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 0.5')
  return value


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'compress-cache',
    'Makes a smaller copy of a cache: all occurrences of a stop word or '
    'punctuation mark share one vector, and of every other token a share is '
    'merged into its nearest by Hamming distance. `btr ask` and `btr '
    'evaluate` read the copy by --cache.',
    'btr compress-cache caches/factbook-residual --output caches/small',
  )
  parser.add_argument('path', help='folder of a finished cache')
  parser.add_argument('--output', required=True, help='folder to write')
  parser.add_argument(
    '--ratio',
    type=ratio,
    default=0.2,
    help='share of the occurrences that is merged, 0 to 0.5 (0.2)',
  )
  parser.add_argument(
    '--keep-stop-words',
    action='store_true',
    help='treat stop words and punctuation like all other tokens',
  )
  parser.add_argument(
    '--reader',
    help='reader or family whose vocabulary the cache was built with; the one '
    'that ships by default',
  )
  parser.add_argument(
    '--vocabulary', help='SentencePiece model, in place of --reader'
  )
  parser.add_argument(
    '--block-size',
    type=common.positive,
    default=compression.Settings().block_size,
    help='occurrences of an id that are matched with one another (4096)',
  )
  parser.add_argument(
    '--memory',
    type=common.positive,
    default=512,
    help='MB for the tokens of a group (512)',
  )
  return parser


def stop_ids(
  path: pathlib.Path, reader: str | None, vocabulary: str | None
) -> np.ndarray:
  """Stop words and punctuation in the vocabulary that the cache is of.

  Raises:
    UserError: the vocabulary is another.
  """
  if vocabulary:
    found = Vocabulary(vocabulary)
  else:
    folder = systems.reader_path(reader)
    (system,) = systems.systems_of(folder, 'joint', None)
    found = reader_files.load_reader(folder, mode=system.mode).vocabulary
  expected = cache_lib.read_manifest(path).fingerprints['tokenizer']
  if found.fingerprint != expected:
    raise common.UserError(
      f'the cache {path} was built with the vocabulary {expected[:16]}..., '
      f'not with {found.path} ({found.fingerprint[:16]}...). Name the right '
      'one by --reader or --vocabulary, or use --keep-stop-words.'
    )
  return compression.stop_ids(found.pieces(range(found.vocab_size)))


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  path = pathlib.Path(arguments.path)
  chosen = np.zeros(0, np.int64)
  if not arguments.keep_stop_words:
    chosen = stop_ids(path, arguments.reader, arguments.vocabulary)
  settings = compression.Settings(arguments.ratio, arguments.block_size)
  start = time.perf_counter()
  with progress_lib.Progress('compress') as progress:
    compression.compress(
      path,
      arguments.output,
      settings,
      chosen,
      memory_bytes=arguments.memory * 10**6,
      progress=progress,
    )
  seconds = time.perf_counter() - start
  before = cache_lib.storage_report(path)
  report = cache_lib.storage_report(arguments.output)
  console = common.console()
  console.print(storage.table(report))
  console.print(
    f'{path}: {before["total"]["bytes_per_token"]:.2f} bytes per token; '
    f'{arguments.output}: {report["total"]["bytes_per_token"]:.2f}; '
    f'{progress_lib.duration(seconds)}'
  )
  common.print_json(
    {
      'command': 'compress-cache',
      'source': str(path),
      'source_bytes': before['total']['bytes'],
      'seconds': seconds,
      **report,
    }
  )
  return common.EXIT_OK
