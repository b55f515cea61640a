"""`btr inspect-cache`: what a cache holds, and its bytes per token."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

from btr_jax import cache as cache_lib
from btr_jax.evaluation import storage
from btr_jax.tools import common


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'inspect-cache',
    'Shows whom a cache belongs to, how it is laid out, and what every part '
    'of it takes on disk per token.',
    'btr inspect-cache caches/factbook-residual',
  )
  parser.add_argument('path', help='folder of the cache')
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  path = pathlib.Path(arguments.path)
  manifest = cache_lib.read_manifest(path)
  report = cache_lib.storage_report(path)
  layout = manifest.layout
  console = common.console()
  console.print(f'[bold]{path}[/bold] ({manifest.status})')
  for name, value in sorted(manifest.fingerprints.items()):
    console.print(f'  {name:<10} {value}', soft_wrap=True)
  console.print(
    f'  {layout.num_shards} shards of {layout.passages_per_shard} passages, '
    f'{layout.bits_bytes} + {layout.scale_bytes} bytes per token as the codec '
    f'packs them, passages of at most {layout.max_length} tokens'
  )
  console.print(storage.table(report))
  common.print_json(
    {
      'command': 'inspect-cache',
      'status': manifest.status,
      'fingerprints': dict(manifest.fingerprints),
      **report,
    }
  )
  return common.EXIT_OK
