"""`btr benchmark-cache`: what caches cost to read, open, compress and keep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import rich.table

from btr_jax import cache as cache_lib
from btr_jax import config
from btr_jax.cache import compression
from btr_jax.data import records
from btr_jax.evaluation import (
  cache_costs,
  environment,
  lookup_speed,
  storage,
  synthetic_cache,
)
from btr_jax.tools import (
  caches,
  common,
  compress_cache,
  corpora,
  evaluate,
  evaluate_arguments,
  systems,
)
from btr_jax.tools import progress as progress_lib

LENGTH = 128
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
NOTES = {
  'lookup': 'Passages of 128 tokens x (96 bytes of bits, 1 or 2 of scale, 2 of '
  'token id), random content, the shards open. Warm: all passages read in '
  'the same way just before. Cold: posix_fadvise(DONTNEED) on every file '
  'before each look-up; `cached_before` is the share of the pages of the bits '
  'that were still in the page cache. The look-up pads, gives token ids, bits '
  'and scales, and checks them; the others read the bits alone and know where '
  'they are.',
  'opening': 'Token files are sparse, offsets and shard indexes are real. In a '
  'process of its own that has imported the package before. Resident memory '
  'counts the mapped pages that were touched.',
  'compression': 'Random bits of 768 dimensions, ids by Zipf, the 120 most '
  'frequent ids as stop words; ratio 0.2. In a process of its own.',
}


def _ratios(text: str) -> list[float]:
  return [compress_cache.ratio(part) for part in text.split(',')]


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'benchmark-cache',
    'costs: look-ups warm and cold from a cache of random bits, opening of a '
    'cache of the size of Wikipedia (sparse files), compression, bytes per '
    'token. curve: compresses a real cache at several ratios and counts its '
    'files; with --questions it answers questions from each.',
    'btr benchmark-cache costs --folder costs --output costs.json',
  )
  add = parser.add_argument
  add('action', choices=['costs', 'curve'])
  add('--folder', help='for the caches it makes; removed afterwards')
  add(
    '--passages',
    type=common.positive,
    default=200_000,
    help='costs: of the cache for look-ups, 12.8 kB each (200000)',
  )
  add(
    '--open-passages',
    type=common.positive,
    default=32_000_000,
    help='costs: of the sparse cache (32000000)',
  )
  add(
    '--compress-passages',
    type=common.positive,
    default=78_125,
    help='costs: of the cache that is compressed, 128 tokens each (78125)',
  )
  add(
    '--scale-bits',
    type=int,
    choices=config.SCALE_BITS,
    default=16,
    help="costs: of a token's scale in these caches, as codec.scale_bits (16)",
  )
  add('--cold-repeats', type=common.positive, default=30, help='costs (30)')
  add('--warm-repeats', type=common.positive, default=300, help='costs (300)')
  add(
    '--cache',
    help="curve: the cache to compress; the reader's of the Factbook by "
    'default',
  )
  add('--reader', help='curve: the reader that the cache is of')
  add('--codec', help="curve: its codec; the reader's by default")
  add(
    '--ratios',
    type=_ratios,
    default=list(RATIOS),
    help='curve: to compress at (.05,.1,.2,.3,.4,.5)',
  )
  add('--dims', type=common.positive, help="curve: of the reader's states")
  add(
    '--questions',
    type=common.positive,
    help='curve: of the validation split to answer from each cache',
  )
  add('--output', help='write the JSON record to this file')
  add('--plot', help='curve: draw it into this PNG')
  return parser


def _costs(arguments: argparse.Namespace, folder: pathlib.Path) -> Any:
  source = folder / 'random'
  scale_bytes = arguments.scale_bits // 8
  with progress_lib.Progress('write') as progress:
    synthetic_cache.build_random(
      source,
      arguments.passages,
      length=LENGTH,
      scale_bytes=scale_bytes,
      progress=progress,
    )
  report = _storage(source)
  setting = lookup_speed.Setting(
    length=LENGTH,
    warm_repeats=arguments.warm_repeats,
    cold_repeats=arguments.cold_repeats,
  )
  with progress_lib.Progress('look-ups') as progress:
    lookups = lookup_speed.measure(source, setting, progress)
  shutil.rmtree(source)

  common.say(f'a sparse cache of {arguments.open_passages:,} passages')
  plan = synthetic_cache.build_sparse(
    source,
    arguments.open_passages,
    length=LENGTH,
    scale_bytes=scale_bytes,
  )
  sizes = [f.stat() for f in source.rglob('*') if f.is_file()]
  opening = {
    'passages': arguments.open_passages,
    'shards': plan.num_shards,
    'file_bytes': sum(size.st_size for size in sizes),
    'allocated_bytes': sum(size.st_blocks * 512 for size in sizes),
    **cache_costs.opening(source, LENGTH),
  }
  shutil.rmtree(source)

  common.say(f'compressing {arguments.compress_passages * LENGTH:,} tokens')
  synthetic_cache.build_random(
    source,
    arguments.compress_passages,
    length=LENGTH,
    scale_bytes=scale_bytes,
  )
  settings = compression.Settings()
  compressed = {
    'ratio': settings.ratio,
    'block_size': settings.block_size,
    **cache_costs.compressing(
      source,
      folder / 'compressed',
      settings.ratio,
      settings.block_size,
      synthetic_cache.stop_ids().tolist(),
    ),
    'storage': _storage(folder / 'compressed'),
  }
  return {
    'scale_bits': arguments.scale_bits,
    'storage': report,
    'lookup': {
      'passages_at_a_time': setting.passages,
      'passage_length': LENGTH,
      'bits_bytes_at_a_time': setting.passages * LENGTH * 96,
      'ways': lookups,
    },
    'opening': opening,
    'compression': compressed,
    'notes': NOTES,
  }


def _show_costs(record: dict[str, Any]) -> None:
  console = common.console()
  console.print(storage.table(record['storage']))
  table = rich.table.Table(
    title='look-up of 40 random passages of 128 tokens, ms: median (least)'
  )
  for title in ('way', 'reads', 'checks'):
    table.add_column(title)
  for title in ('warm', 'cold'):
    table.add_column(title, justify='right')
  for row in record['lookup']['ways']:
    times = [
      f'{row[key]["median_ms"]:.3f} ({row[key]["smallest_ms"]:.3f})'
      for key in ('warm', 'cold')
    ]
    checks = 'yes' if row['checks'] else 'no'
    table.add_row(row['name'], row['reads'], checks, *times)
  console.print(table)
  opening, made = record['opening'], record['compression']
  mega = 1e6
  console.print(
    f'opening {opening["passages"]:,} passages '
    f'({storage.amount(opening["file_bytes"])}): '
    f'{opening["open_seconds"]:.3f} s, resident '
    f'{opening["resident_open_bytes"] / mega:.0f} MB, of which '
    f'{opening["resident_before_bytes"] / mega:.0f} MB before; after '
    f'{opening["lookups"]} look-ups '
    f'{opening["resident_after_lookups_bytes"] / mega:.0f} MB'
  )
  console.print(
    f'compressing {sum(made["tokens"].values()):,} tokens: '
    f'{made["seconds"]:.0f} s, {made["cpu_seconds"]:.0f} s of processor time, '
    f'at most {made["peak_resident_bytes"] / mega:.0f} MB resident; '
    f'{made["storage"]["total"]["bytes_per_token"]:.2f} bytes per token'
  )


def _accuracy(
  arguments: argparse.Namespace, cache: pathlib.Path
) -> dict[str, float]:
  """Exact match and F1 of the reader from one cache."""
  argv = ['--mode', 'binary', '--split', 'validation', '--seeds', '0']
  argv += ['--limit', str(arguments.questions), '--repeats', '0']
  argv += ['--batch', '8', '--cache', str(cache)]
  for name in ('reader', 'codec'):
    value = getattr(arguments, name)
    argv += [f'--{name}', value] if value else []
  wanted = evaluate_arguments.make_parser().parse_args(argv)
  (row,) = evaluate.evaluate(wanted)['modes']
  return {'em': row['em']['mean'], 'f1': row['f1']['mean']}


def _source(arguments: argparse.Namespace) -> pathlib.Path:
  if arguments.cache:
    return pathlib.Path(arguments.cache)
  folder = systems.reader_path(arguments.reader)
  (system,) = systems.systems_of(folder, 'binary', arguments.codec)
  reader = systems.load(folder, system)
  return caches.default_path(reader, corpora.load_corpus(corpora.FACTBOOK))


def _storage(path: pathlib.Path, dims: int | None = None) -> dict[str, Any]:
  """The storage report, without the folder's name: a record may travel."""
  report = cache_lib.storage_report(path, dims)
  del report['path']
  return report


def _curve(arguments: argparse.Namespace, folder: pathlib.Path) -> Any:
  source = _source(arguments)
  stop_ids = compress_cache.stop_ids(source, arguments.reader, None)
  none = np.zeros(0, np.int64)
  points = []
  for name, ratio, ids in (
    ('as built', None, none),
    ('stop words alone', 0.0, stop_ids),
    *((f'ratio {ratio}', ratio, stop_ids) for ratio in arguments.ratios),
  ):
    path = source
    if ratio is not None:
      path = folder / f'ratio{ratio}'
      with progress_lib.Progress(name) as progress:
        settings = compression.Settings(ratio)
        compression.compress(source, path, settings, ids, progress=progress)
    point = {
      'name': name,
      'ratio': ratio,
      'report': _storage(path, arguments.dims),
    }
    if arguments.questions:
      point |= _accuracy(arguments, path)
    points.append(point)
    if path != source:
      shutil.rmtree(path)
  return {'questions': arguments.questions, 'points': points}


def _show_curve(record: dict[str, Any]) -> None:
  table = rich.table.Table(title='storage by merge ratio, from real files')
  table.add_column('cache')
  for title in (
    'shared',
    'merged',
    'bits B/token',
    'all B/token',
    'of as built',
    'EM',
    'F1',
  ):
    table.add_column(title, justify='right')
  built = record['points'][0]['report']['total']['bytes']
  for point in record['points']:
    report = point['report']
    made = report['compression']
    shares = ['-', '-']
    if made:
      shares = [
        f'{100 * made["tokens"][kind] / report["tokens"]:.1f} %'
        for kind in ('shared', 'merged')
      ]
    table.add_row(
      point['name'],
      *shares,
      f'{report["parts"]["bits"]["bytes_per_token"]:.2f}',
      f'{report["total"]["bytes_per_token"]:.2f}',
      f'{report["total"]["bytes"] / built:.3f}',
      *(f'{point[k]:.1f}' if k in point else '-' for k in ('em', 'f1')),
    )
  common.console().print(table)


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.plot and arguments.action != 'curve':
    raise common.UserError('--plot draws a curve; leave it out of costs.')
  if arguments.folder:
    pathlib.Path(arguments.folder).mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(
    prefix='btr-benchmark-', dir=arguments.folder
  ) as folder:
    run = _costs if arguments.action == 'costs' else _curve
    found = run(arguments, pathlib.Path(folder))
  record = {
    'command': f'benchmark-cache {arguments.action}',
    'environment': environment.environment(),
    **found,
  }
  if arguments.action == 'costs':
    _show_costs(record)
  else:
    _show_curve(record)
  if arguments.output:
    records.write_json(arguments.output, record)
    common.say(f'record written to {arguments.output}')
  if arguments.plot:
    points = [p for p in record['points'] if p['ratio'] is not None]
    storage.plot_curve(points, arguments.plot)
    common.say(f'picture written to {arguments.plot}')
  common.print_json(record)
  return common.EXIT_OK
