"""Makes of a finished cache the beginning of a longer one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import hashlib

from btr_jax.cache import manifest as manifests
from btr_jax.cache.assembly import check_same
from btr_jax.cache.ledger import Ledger
from btr_jax.cache.manifest import Manifest
from btr_jax.cache.places import Place
from btr_jax.cache.plan import CachePlan


def kept_shards(old: Manifest) -> int:
  """Shards that stay as they are: those that are full."""
  return old.layout.num_passages // old.layout.passages_per_shard


def begin(
  place: Place,
  plan: CachePlan,
  fingerprints: Mapping[str, str],
  corpus_fingerprint_of: Callable[[int], str],
) -> None:
  """Turns the cache into one of the longer corpus that is being built.

  The full shards go into the ledger before the manifest changes: killed in
  between, the cache is the old one; killed after, a build to be resumed.

  Args:
    place: where the cache stands.
    plan: of the longer corpus, with the cache's passages_per_shard.
    fingerprints: of the longer corpus.
    corpus_fingerprint_of: fingerprint of its first n passages.

  Raises:
    FileNotFoundError: there is no cache.
    ValueError: the corpus is shorter.
    CacheMismatchError: other lengths, or another beginning, model, codec or
      tokenizer; with a diff.
    CacheLockedError: another process writes to it.
  """
  lock = place.lock()
  try:
    _begin(place, plan, fingerprints, corpus_fingerprint_of)
  finally:
    lock.release()


def _begin(
  place: Place,
  plan: CachePlan,
  fingerprints: Mapping[str, str],
  corpus_fingerprint_of: Callable[[int], str],
) -> None:
  fresh = Manifest(plan.layout, dict(fingerprints))
  old = manifests.read_manifest(place)
  if old.status != manifests.COMPLETE:
    check_same(
      place,
      fresh,
      old,
      'Its build has not finished. Finish it with the corpus that it was '
      'begun with, then append.',
    )
    return  # An append that was interrupted: the build goes on.
  count = old.layout.num_passages
  if len(plan.lengths) < count:
    raise ValueError(
      f'The corpus has {len(plan.lengths)} passages, the cache {place} '
      f'{count}; expected more. Give the old corpus with new passages at its '
      'end.'
    )
  check_beginning(place, old, plan, fingerprints, corpus_fingerprint_of(count))
  if len(plan.lengths) == count:
    return  # An append that had come to its end.
  ledger = Ledger(place)
  ledger.clear()
  for entry in old.shards[: kept_shards(old)]:
    ledger.write(entry)
  manifests.write_manifest(place, fresh)


def check_beginning(
  place: Place,
  old: Manifest,
  plan: CachePlan,
  fingerprints: Mapping[str, str],
  corpus_fingerprint: str,
) -> None:
  """Refuses a corpus that does not begin with the cache's.

  Raises:
    CacheMismatchError: with a diff.
  """
  count = old.layout.num_passages
  lengths = plan.lengths[:count]
  beginning = Manifest(
    # As a build of the first passages would have laid it out.
    dataclasses.replace(
      plan.layout,
      num_passages=count,
      num_tokens=int(lengths.sum(dtype='int64')),
      lengths_sha256=hashlib.sha256(lengths.tobytes()).hexdigest(),
    ),
    dict(fingerprints) | {'corpus': corpus_fingerprint},
  )
  check_same(
    place,
    beginning,
    old,
    'Expected is what the first passages of the corpus give. Append needs the '
    'old corpus as it was, with new passages behind it, and the same reader.',
  )
