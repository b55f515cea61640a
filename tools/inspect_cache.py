"""`btr inspect-cache`: what a cache holds, and its bytes per token."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from btr_jax import cache as cache_lib
from btr_jax.cache import compression
from btr_jax.evaluation import storage
from btr_jax.tools import common


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'inspect-cache',
    'Shows whom a cache belongs to, how it is laid out, what every part of it '
    'takes on disk, per token and per passage, and what it would take for the '
    "paper's corpus, beside caches of numbers. Compressed caches too.",
    'btr inspect-cache caches/factbook-residual --dims 128',
  )
  parser.add_argument('path', help='folder of the cache')
  parser.add_argument(
    '--dims',
    type=common.positive,
    help="of the reader's states, to compare with caches of numbers; needed "
    'for codec residual, which may keep fewer bits',
  )
  return parser


def _manifest(path: pathlib.Path) -> tuple[Any, str]:
  if compression.is_compressed(path):
    return compression.read_manifest(path), 'complete, compressed'
  manifest = cache_lib.read_manifest(path)
  return manifest, manifest.status


def _describe(report: dict[str, Any]) -> str:
  made = report['compression']
  tokens = max(1, report['tokens'])
  shares = {
    name: f'{100 * count / tokens:.1f} %'
    for name, count in made['tokens'].items()
  }
  return (
    f'compressed at ratio {made["ratio"]} in blocks of {made["block_size"]}: '
    f'{shares["shared"]} of the tokens share {made["stop_ids"]} vectors, '
    f'{shares["merged"]} were merged into others, {shares["own"]} have one '
    'of their own'
  )


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  path = pathlib.Path(arguments.path)
  manifest, status = _manifest(path)
  report = cache_lib.storage_report(path, arguments.dims)
  layout = manifest.layout
  console = common.console()
  console.print(f'[bold]{path}[/bold] ({status})')
  for name, value in sorted(manifest.fingerprints.items()):
    console.print(f'  {name:<10} {value}', soft_wrap=True)
  console.print(
    f'  {layout.num_shards} shards of {layout.passages_per_shard} passages, '
    f'{layout.bits_bytes} + {layout.scale_bytes} bytes per token as the codec '
    f'packs them, passages of at most {layout.max_length} tokens'
  )
  if report['compression']:
    console.print(f'  {_describe(report)}', soft_wrap=True)
  console.print(storage.table(report))
  console.print(storage.corpus_table(report))
  if report['comparison'] is None:
    console.print(
      f'--dims N compares with caches of numbers; codec {layout.codec_kind} '
      'does not tell how many dimensions its states have'
    )
  common.print_json(
    {
      'command': 'inspect-cache',
      'status': status.partition(',')[0],
      'fingerprints': dict(manifest.fingerprints),
      **report,
    }
  )
  return common.EXIT_OK
