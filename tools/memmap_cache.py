"""`btr export-cache memmap`: a cache as arrays that NumPy maps by itself."""

from __future__ import annotations

from collections.abc import Sequence
import time

import rich.table

from btr_jax.cache import memmap
from btr_jax.evaluation import storage
from btr_jax.tools import common
from btr_jax.tools import progress as progress_lib


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'export-cache memmap',
    'Writes the passages of a cache one after another into bits.npy, '
    'scale.npy, token_ids.npy and passage_starts.npy, for readers without '
    "zarr and without this package: numpy.load(file, mmap_mode='r').",
    'btr export-cache memmap caches/factbook-residual --output flat',
  )
  parser.add_argument('path', help='folder or URL of a finished cache')
  parser.add_argument('--output', required=True, help='folder to write')
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  start = time.perf_counter()
  with progress_lib.Progress('memmap') as progress:
    written = memmap.export_memmap(arguments.path, arguments.output, progress)
  seconds = time.perf_counter() - start
  table = rich.table.Table(
    title=f'{written["passages"]:,} passages, {written["tokens"]:,} tokens'
  )
  for title in ('file', 'shape', 'type', 'size'):
    table.add_column(title)
  for name, entry in sorted(written['files'].items()):
    shape = ' x '.join(f'{size:,}' for size in entry['shape'])
    table.add_row(name, shape, entry['dtype'], storage.amount(entry['bytes']))
  common.console().print(table)
  common.print_json(
    {
      'command': 'export-cache memmap',
      'path': arguments.path,
      'output': arguments.output,
      'seconds': seconds,
      **written,
    }
  )
  return common.EXIT_OK
