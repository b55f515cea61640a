"""What building a cache of a corpus will take, or what is left of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.table

from btr_jax.cache import (
  appending,
  assembly,
  ledger,
  places,
)
from btr_jax.cache import manifest as manifests
from btr_jax.cache import plan as plans
from btr_jax.evaluation import storage
from btr_jax.models import reader_files
from btr_jax.tools import caches, common, corpora
from btr_jax.tools import progress as progress_lib


def pairs_table(
  title: str, rows: Iterable[tuple[str, str]]
) -> rich.table.Table:
  """A table of names and values."""
  table = rich.table.Table(title=title, show_header=False)
  for name, value in rows:
    table.add_row(name, value)
  return table


def show_plan(
  path: str,
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  arguments: Any,
) -> dict[str, Any]:
  """The plan of a corpus that is there."""
  plan = caches.plan(reader, corpus, arguments.passages_per_shard)
  free = places.open_place(path).free_bytes()
  rate = arguments.rate or caches.passages_per_second(
    reader, corpus, arguments.batch
  )
  seconds = plan.layout.num_passages / rate
  tokens = plan.layout.num_tokens
  rows = [
    ('passages', f'{plan.layout.num_passages:,}'),
    ('tokens', f'{tokens:,}'),
    ('shards', f'{plan.num_shards:,}'),
    ('codec', caches.fingerprints(reader, corpus)['codec']),
    ('size', storage.amount(plan.data_bytes)),
    ('bytes per token', f'{plan.data_bytes / max(tokens, 1):.2f}'),
    ('free there', storage.amount(free) if free is not None else 'not told'),
    ('time, at most about', progress_lib.duration(seconds)),
  ]
  common.console().print(pairs_table(f'plan of {path}', rows))
  plan.check_free_space(path)
  return {
    'passages': plan.layout.num_passages,
    'tokens': tokens,
    'shards': plan.num_shards,
    'bytes': plan.data_bytes,
    'free_bytes': free,
    'passages_per_second': rate,
    'seconds_estimated': seconds,
  }


def show_work(
  path: str,
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  arguments: Any,
  share: plans.Share,
) -> dict[str, Any]:
  """What build, append or repair would encode and write; writes nothing."""
  place = places.open_place(path)
  old = _existing(place)
  per_shard = arguments.passages_per_shard
  if old is not None and arguments.action != 'build':
    per_shard = old.layout.passages_per_shard
  plan = caches.plan(reader, corpus, per_shard)
  fresh = manifests.Manifest(plan.layout, caches.fingerprints(reader, corpus))
  entries = _trusted(place, old, plan, fresh, corpus, arguments.action)
  missing = [
    shard
    for shard in share.shards(plan.num_shards)
    if shard not in entries
    or assembly.measure_shard(place, plan.layout, entries[shard])
    != entries[shard].files
  ]
  passages = sum(len(plan.shard_lengths(shard)) for shard in missing)
  size = sum(plan.shard_bytes(shard) for shard in missing)
  free = place.free_bytes()
  rows = [
    ('shards', f'{len(share.shards(plan.num_shards)):,}'),
    ('of them whole', f'{len(share.shards(plan.num_shards)) - len(missing):,}'),
    ('to encode', f'{passages:,} passages in {len(missing):,} shards'),
    ('to write', storage.amount(size)),
    ('free there', storage.amount(free) if free is not None else 'not told'),
  ]
  title = f'{arguments.action} {path}: nothing is done (--dry-run)'
  common.console().print(pairs_table(title, rows))
  return {
    'dry_run': True,
    'shards': plan.num_shards,
    'missing_shards': missing,
    'passages_to_encode': passages,
    'bytes_to_write': size,
    'free_bytes': free,
  }


def _existing(place: places.Place) -> manifests.Manifest | None:
  for name in (manifests.MANIFEST_NAME, manifests.COPY_NAME):
    try:
      return manifests.read_manifest(place, name)
    except (FileNotFoundError, ValueError):
      continue
  return None


def _trusted(
  place: places.Place,
  old: manifests.Manifest | None,
  plan: plans.CachePlan,
  fresh: manifests.Manifest,
  corpus: corpora.Corpus,
  action: str,
) -> dict[int, manifests.ShardEntry]:
  """Ledger entries that the action would start from."""
  if old is None:
    return {}
  complete = old.status == manifests.COMPLETE
  if action == 'append' and complete:
    count = old.layout.num_passages
    appending.check_beginning(
      place, old, plan, fresh.fingerprints, corpus.fingerprint_of(count)
    )
    kept = old.shards
    if count < len(plan.lengths):
      kept = old.shards[: appending.kept_shards(old)]
    return {shard.index: shard for shard in kept}
  assembly.check_same(place, fresh, old, 'It was begun with another plan.')
  if complete:
    return {shard.index: shard for shard in old.shards}
  return ledger.Ledger(place).read()
