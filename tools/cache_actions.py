"""What `btr export-cache` does: plan, build, check, mend, extend, join."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any

from btr_jax import cache as cache_lib
from btr_jax.cache import (
  builder,
  compression,
  copying,
  merging,
  places,
  verify,
)
from btr_jax.cache import manifest as manifests
from btr_jax.cache.compression import verify as verify_compressed
from btr_jax.evaluation import storage
from btr_jax.models import reader_files
from btr_jax.tools import (
  cache_jobs,
  cache_plans,
  cache_scales,
  caches,
  common,
  corpora,
  systems,
)
from btr_jax.tools import progress as progress_lib

ACTIONS = ('plan', 'build', 'verify', 'repair', 'append', 'merge', 'export')
_WITH_MODEL = ('build', 'repair', 'append')


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'export-cache',
    'plan: bytes, shards, time and free disk, without writing anything; with '
    '--passages for a corpus that is not there yet. build: runs the lower '
    'layers over all passages and writes their bits; goes on where an '
    'interrupted build stopped. verify: holds every file against the '
    'checksums. repair: builds what is damaged again, and nothing else. '
    'append: extends a cache to a corpus that begins with the old one. merge: '
    'makes one cache of partial ones (--shards). export: copies a finished '
    'cache to another folder or URL. memmap: writes a cache as arrays that '
    'NumPy maps (`btr export-cache memmap --help`). Several processes build '
    'one cache with the flags of training: --multiprocess, or '
    '--coordinator_address=HOST:PORT --process_count=N --process_index=I.',
    'btr export-cache build --codec residual',
  )
  parser.add_argument('action', choices=ACTIONS)
  parser.add_argument(
    'parts', nargs='*', help='merge: the partial caches, folders or URLs'
  )
  parser.add_argument(
    '--reader', help='reader or family folder; the one that ships by default'
  )
  parser.add_argument(
    '--codec',
    help="calibrated, residual, sign or float; the reader's by default",
  )
  systems.add_bits_argument(parser)
  parser.add_argument(
    '--corpus',
    default=corpora.FACTBOOK,
    help='factbook, a folder or a file, as `btr ask` takes them (factbook)',
  )
  parser.add_argument(
    '--cache',
    help='folder, or URL of TensorStore (gs://, s3://, ...); a folder under '
    '$BTR_DATA_DIR/caches by default',
  )
  parser.add_argument(
    '--batch',
    type=common.positive,
    default=caches.BATCH_SIZE,
    help=f'passages encoded at once by a device ({caches.BATCH_SIZE})',
  )
  parser.add_argument(
    '--passages-per-shard',
    type=common.positive,
    help='by default 1,024, doubled up to 65,536 for large corpora',
  )
  parser.add_argument(
    '--shards',
    metavar='I/N',
    help='build: only this share, such as 3/8, on a machine of its own',
  )
  parser.add_argument('--to', help='export: the folder or URL to copy to')
  parser.add_argument(
    '--dry-run', action='store_true', help='say what would be done, do nothing'
  )
  parser.add_argument(
    '--build',
    action='store_true',
    help='prepare the Factbook if it is not there',
  )
  cache_scales.add_arguments(parser)
  return parser


def _print_problems(problems: Sequence[verify.Problem]) -> None:
  for problem in problems:
    common.console().print(f'{problem}', soft_wrap=True, markup=False)


def _verified(path: str, label: str) -> list[verify.Problem]:
  compressed = compression.is_compressed(pathlib.Path(path))
  check = verify_compressed.verify if compressed else verify.verify
  with progress_lib.Progress(label) as progress:
    return check(path, progress)


def _verify(path: str) -> tuple[dict[str, Any], int]:
  problems = _verified(path, 'verify')
  _print_problems(problems)
  if problems:
    common.say(
      'error: `btr export-cache repair` with the same reader and corpus builds '
      'what is damaged again'
    )
  else:
    common.console().print(f'{path}: every file is as it was written')
  record = {'problems': [str(problem) for problem in problems]}
  return record, common.EXIT_USER_ERROR if problems else common.EXIT_OK


def _merge(path: str, arguments: Any) -> dict[str, Any]:
  parts = [places.open_place(part) for part in arguments.parts]
  found = merging.coverage(parts)
  layout = found.manifest.layout
  counts = [0] * len(parts)
  for number, _ in found.source.values():
    counts[number] += 1
  rows = [
    (str(part), f'{count} of {layout.num_shards} shards')
    for part, count in zip(parts, counts, strict=True)
  ]
  rows.append(('in none of them', f'{len(found.missing)} shards'))
  rows.append(('size', storage.amount(found.bytes)))
  common.console().print(cache_plans.pairs_table(f'merge into {path}', rows))
  record = {
    'parts': arguments.parts,
    'shards': layout.num_shards,
    'missing_shards': list(found.missing),
    'bytes': found.bytes,
  }
  if arguments.dry_run:
    return record
  with progress_lib.Progress('merge') as progress:
    merging.merge(parts, places.open_place(path), progress)
  return record


def _export(path: str, arguments: Any) -> dict[str, Any]:
  if not arguments.to:
    raise common.UserError(
      'export needs --to, the folder or URL (gs://, s3://, ...) to copy to.'
    )
  start = time.perf_counter()
  with progress_lib.Progress('export') as progress:
    copied = copying.export(
      places.open_place(path),
      places.open_place(arguments.to),
      progress,
      dry_run=arguments.dry_run,
    )
  seconds = time.perf_counter() - start
  verb = 'would copy' if arguments.dry_run else 'copied'
  rows = [
    (verb, f'{copied.files} files, {storage.amount(copied.bytes)}'),
    ('there already, checksum right', f'{copied.present} files'),
  ]
  table = cache_plans.pairs_table(f'{path} to {arguments.to}', rows)
  common.console().print(table)
  return {
    'to': arguments.to,
    **dataclasses.asdict(copied),
    'seconds': seconds,
  }


def _build(
  path: str,
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  arguments: Any,
  job: cache_jobs.Job,
) -> dict[str, Any]:
  """build, append and repair: what runs the model."""
  options: dict[str, Any] = {'step': builder.build}
  if arguments.action == 'build':
    options |= {'passages_per_shard': arguments.passages_per_shard}
    options |= {'share': job.share, 'together': job.together}
  elif arguments.action == 'append':
    options['step'] = builder.append
    options['corpus_fingerprint_of'] = corpus.fingerprint_of
  else:
    options['step'] = builder.repair
    options['passages_per_shard'] = arguments.passages_per_shard
  problems: list[verify.Problem] = []
  if arguments.action == 'repair':
    problems = _damage(path)
    _print_problems(problems)
  if arguments.dry_run:
    record = cache_plans.show_work(path, reader, corpus, arguments, job.share)
    return record | {'problems': [str(problem) for problem in problems]}
  start = time.perf_counter()
  manifest = caches.build(
    path,
    reader,
    corpus,
    batch_size=arguments.batch,
    label=job.label('cache'),
    **options,
  )
  seconds = time.perf_counter() - start
  console = common.console()
  record: dict[str, Any] = {'seconds': seconds, 'status': manifest.status}
  if arguments.action == 'repair':
    record['problems'] = [str(problem) for problem in problems]
    left = _verified(path, 'verify again')
    _print_problems(left)
    record['problems_left'] = [str(problem) for problem in left]
  if manifest.status != manifests.COMPLETE:
    console.print(
      f'{path}: share {job.share.index + 1} of {job.share.count} is written '
      f'after {progress_lib.duration(seconds)}. When the others are, join them '
      'by `btr export-cache merge`.'
    )
    return record | {'shards': manifest.layout.num_shards}
  if job.share.index == 0 and not places.is_url(path):
    report = cache_lib.storage_report(path)
    console.print(storage.table(report))
    record |= report
  console.print(f'{path}: complete after {progress_lib.duration(seconds)}')
  return record


def _damage(path: str) -> list[verify.Problem]:
  """What verify finds; a cache without any manifest is damaged, too."""
  try:
    return _verified(path, 'verify')
  except FileNotFoundError as error:
    return [verify.Problem(str(error), manifests.MANIFEST_NAME)]


def _check(arguments: Any) -> None:
  """Flags that say nothing to the action are mistakes."""
  action = arguments.action
  for name, value, actions in (
    ('parts', arguments.parts, ('merge',)),
    ('--shards', arguments.shards, ('build',)),
    ('--to', arguments.to, ('export',)),
    ('--dry-run', arguments.dry_run, (*_WITH_MODEL, 'merge', 'export')),
    ('--passages', arguments.passages, ('plan',)),
  ):
    if value and action not in actions:
      raise common.UserError(
        f'{name} has no meaning for {action}; it is for {", ".join(actions)}.'
      )
  if action in ('merge', 'export') and not arguments.cache:
    raise common.UserError(f'{action} needs --cache, the cache to work on.')
  if action == 'merge' and not arguments.parts:
    raise common.UserError(
      'merge needs the partial caches, as in: btr export-cache merge part1 '
      'part2 --cache whole'
    )


def main(argv: Sequence[str], job: cache_jobs.Job | None = None) -> int:
  """Runs the command.

  Args:
    argv: its arguments, without those of several processes.
    job: this process's part, where there are several.

  Returns:
    The exit code.
  """
  arguments = make_parser().parse_intermixed_args(argv)
  _check(arguments)
  if job is not None:
    if arguments.action != 'build' or arguments.shards or arguments.dry_run:
      raise common.UserError(
        'several processes (--multiprocess, --process_count, ...) are for '
        'build alone, without --shards or --dry-run.'
      )
    return _run(arguments, job)
  share = (
    cache_lib.Share.parse(arguments.shards)
    if arguments.shards
    else cache_lib.Share()
  )
  return _run(arguments, cache_jobs.Job(share))


def _run(arguments: Any, job: cache_jobs.Job) -> int:
  """One process's part of the command."""
  action, path, code = arguments.action, arguments.cache, common.EXIT_OK
  if action == 'plan' and arguments.passages:
    record = cache_scales.show_scale(arguments)
  elif action == 'merge':
    record = _merge(path, arguments)
  elif action == 'export':
    record = _export(path, arguments)
  elif action == 'verify' and path:
    record, code = _verify(path)
  else:
    reader_path = systems.reader_path(arguments.reader)
    (system,) = systems.systems_of(
      reader_path, 'binary', systems.codec_of(arguments)
    )
    reader = systems.load(reader_path, system)
    corpus = corpora.load_corpus(
      arguments.corpus, build=arguments.build, on_disk=True
    )
    path = path or str(caches.default_path(reader, corpus))
    if action == 'verify':
      record, code = _verify(path)
    elif action == 'plan':
      record = cache_plans.show_plan(path, reader, corpus, arguments)
    else:
      told = caches.fingerprints(reader, corpus)
      job.check(path, told | {'batch': str(arguments.batch)})
      record = _build(path, reader, corpus, arguments, job)
      if record.get('problems_left'):
        code = common.EXIT_USER_ERROR
  common.print_json(
    {'command': f'export-cache {action}', 'path': path, **record}
  )
  return code
