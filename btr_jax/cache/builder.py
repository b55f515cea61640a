"""Builds a cache: passages -> lower layers -> bits -> shards.

The model comes in as a plain function, so that nothing here knows JAX. A build
that is resumed, or spread over processes and devices, or appended to, gives
the bytes of an uninterrupted one by one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import pathlib
import time
from typing import Any

from btr_jax.cache import appending, places, repairing, shard_pipeline
from btr_jax.cache import manifest as manifests
from btr_jax.cache import scan as scans
from btr_jax.cache.ledger import Ledger
from btr_jax.cache.manifest import Manifest
from btr_jax.cache.plan import CachePlan, Share, plan
from btr_jax.cache.scan import PassageTokens
from btr_jax.cache.shard_encoder import (
  CodecLayout,
  EncodeFunction,
)
from btr_jax.cache.writer import CacheWriter

Progress = Callable[[int, int], None]

_SECONDS_BETWEEN_LOOKS = 1.0


def make_plan(
  passage_tokens_of: PassageTokens,
  num_passages: int,
  codec_layout: CodecLayout,
  *,
  vocab_size: int,
  passages_per_shard: int | None = None,
  progress: Progress | None = None,
) -> CachePlan:
  """Plans a cache by a pass over the tokens, without the model.

  Args:
    passage_tokens_of: (start, stop) -> int32 [stop - start, passage_length],
      padded on the right with 0.
    num_passages: passages in the corpus.
    codec_layout: kind, bits_bytes and scale_bytes.
    vocab_size: of the tokenizer.
    passages_per_shard: None chooses by the size of the corpus.
    progress: called with (passages read, num_passages).

  Raises:
    ValueError: tokens of the wrong shape, or padding inside a passage.
  """
  scan = scans.scan(passage_tokens_of, num_passages, progress)
  return _plan_of(scan, codec_layout, vocab_size, passages_per_shard)


def build(
  path: str | pathlib.Path | places.Place,
  passage_tokens_of: PassageTokens,
  num_passages: int,
  encode_fn: EncodeFunction,
  codec_layout: CodecLayout,
  fingerprints: Mapping[str, str],
  *,
  vocab_size: int,
  batch_size: int = 32,
  batches_in_flight: int = 2,
  passages_per_shard: int | None = None,
  progress: Progress | None = None,
  share: Share = Share(),  # noqa: B008 (frozen)
  together: bool = False,
) -> Manifest:
  """Builds a cache, or finishes (or mends) one of the same plan.

  Memory: the rows of a few shards, and a few bytes per passage of the corpus.

  Args:
    path: folder or URL of the cache.
    passage_tokens_of: (start, stop) -> int32 [stop - start, passage_length],
      padded on the right with 0. Called twice for every passage: once for the
      plan, once to encode, there from another thread.
    num_passages: passages in the corpus.
    encode_fn: int32 [batch_size, length] -> {'bits', 'scale'} uint8
      [batch_size, length, bits_bytes | scale_bytes], numpy or JAX; length is
      one of `length_buckets(passage_length)`. 'scale' may be absent when
      scale_bytes is 0. Jit it: it sees no more shapes than there are buckets.
    codec_layout: kind, bits_bytes and scale_bytes.
    fingerprints: model, codec and tokenizer; corpus too, unless the SHA-256 of
      all tokens is to stand for it.
    vocab_size: of the tokenizer; decides how wide a stored token id is.
    batch_size: passages per call of encode_fn.
    batches_in_flight: calls of encode_fn whose results are not fetched yet;
      two for every device that it uses.
    passages_per_shard: None chooses by the size of the corpus.
    progress: called with (passages done, passages of the share).
    share: the shards to write, where several processes write one cache.
    together: the other shares are processes of the same job, which ends when
      one of them dies: share 0 begins and ends the cache, the others wait for
      it. Otherwise the shares know nothing of one another, and the one that
      finds all shards written ends the build.

  Returns:
    The manifest; status `building` while other shares are missing.

  Raises:
    ValueError: tokens or encode_fn's results have the wrong shape; the corpus
      changed between the two passes.
    CacheMismatchError, CacheLockedError, CacheWriteError: as CacheWriter.
  """
  place = places.open_place(path)
  if together and share.index > 0:
    _wait(lambda: _is_begun(place, num_passages, fingerprints))
  scan = _kept_scan(place, num_passages, fingerprints) or scans.scan(
    passage_tokens_of, num_passages
  )
  return _run(
    place,
    scan,
    _plan_of(scan, codec_layout, vocab_size, passages_per_shard),
    {'corpus': scan.sha256} | dict(fingerprints),
    share,
    together,
    progress,
    passage_tokens_of=passage_tokens_of,
    encode_fn=encode_fn,
    codec_layout=codec_layout,
    batch_size=batch_size,
    batches_in_flight=batches_in_flight,
  )


def append(
  path: str | pathlib.Path | places.Place,
  passage_tokens_of: PassageTokens,
  num_passages: int,
  encode_fn: EncodeFunction,
  codec_layout: CodecLayout,
  fingerprints: Mapping[str, str],
  *,
  vocab_size: int,
  corpus_fingerprint_of: Callable[[int], str] | None = None,
  batch_size: int = 32,
  batches_in_flight: int = 2,
  progress: Progress | None = None,
) -> Manifest:
  """Extends a cache to a corpus that begins with the one it was built from.

  Full shards stay; the last one, if it was not full, is encoded again. The
  result is that of `build` over the whole corpus with the same
  passages_per_shard, byte for byte. Killed, it is resumed by itself, or by
  `build` with the same corpus.

  Args:
    path: folder or URL of the cache.
    passage_tokens_of: of the longer corpus, as the others in `build`.
    num_passages: of the longer corpus.
    encode_fn: as in `build`.
    codec_layout: as in `build`.
    fingerprints: of the longer corpus.
    vocab_size: as in `build`.
    corpus_fingerprint_of: fingerprint of the first n passages; needed where
      `fingerprints` names a corpus.
    batch_size: as in `build`.
    batches_in_flight: as in `build`.
    progress: as in `build`.

  Raises:
    ValueError: the corpus is shorter than the cache.
    FileNotFoundError: there is no cache.
    CacheMismatchError: another model, codec, tokenizer or beginning.
  """
  place = places.open_place(path)
  old = manifests.read_manifest(place)
  per_shard = old.layout.passages_per_shard
  scan = scans.scan(passage_tokens_of, num_passages)
  cache_plan = _plan_of(scan, codec_layout, vocab_size, per_shard)
  if corpus_fingerprint_of is None:
    if 'corpus' in fingerprints:
      raise ValueError(
        'append was given the fingerprint of the corpus, but not '
        'corpus_fingerprint_of, to tell whether it begins like the old one.'
      )
    corpus_fingerprint_of = lambda n: (  # noqa: E731
      scans.scan(passage_tokens_of, n).sha256
    )
  whole = {'corpus': scan.sha256} | dict(fingerprints)
  appending.begin(place, cache_plan, whole, corpus_fingerprint_of)
  return _run(
    place,
    scan,
    cache_plan,
    whole,
    Share(),
    False,
    progress,
    passage_tokens_of=passage_tokens_of,
    encode_fn=encode_fn,
    codec_layout=codec_layout,
    batch_size=batch_size,
    batches_in_flight=batches_in_flight,
  )


def repair(
  path: str | pathlib.Path | places.Place,
  passage_tokens_of: PassageTokens,
  num_passages: int,
  encode_fn: EncodeFunction,
  codec_layout: CodecLayout,
  fingerprints: Mapping[str, str],
  *,
  vocab_size: int,
  passages_per_shard: int | None = None,
  batch_size: int = 32,
  batches_in_flight: int = 2,
  progress: Progress | None = None,
) -> Manifest:
  """Mends a cache; encodes the passages of damaged shards alone.

  A damaged or foreign manifest is replaced by its copy. Where that is lost as
  well, nothing tells sound shards from others, and all are built again.

  Args:
    path: folder or URL of the cache.
    passage_tokens_of: as the others in `build`.
    num_passages: as in `build`.
    encode_fn: as in `build`.
    codec_layout: as in `build`.
    fingerprints: as in `build`.
    vocab_size: as in `build`.
    passages_per_shard: None takes what the cache has.
    batch_size: as in `build`; must be that of the build.
    batches_in_flight: as in `build`.
    progress: as in `build`.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    CacheMismatchError: it is a cache of something else.
  """
  place = places.open_place(path)
  found = repairing.passages_per_shard(place)
  per_shard = passages_per_shard or found
  scan = scans.scan(passage_tokens_of, num_passages)
  cache_plan = _plan_of(scan, codec_layout, vocab_size, per_shard)
  whole = {'corpus': scan.sha256} | dict(fingerprints)
  repairing.begin(place, Manifest(cache_plan.layout, whole))
  return _run(
    place,
    scan,
    cache_plan,
    whole,
    Share(),
    False,
    progress,
    passage_tokens_of=passage_tokens_of,
    encode_fn=encode_fn,
    codec_layout=codec_layout,
    batch_size=batch_size,
    batches_in_flight=batches_in_flight,
  )


def _run(
  place: places.Place,
  scan: scans.Scan,
  cache_plan: CachePlan,
  fingerprints: Mapping[str, str],
  share: Share,
  together: bool,
  progress: Progress | None,
  **options: Any,
) -> Manifest:
  """Writes what is missing of a share; ends the cache if it can."""
  leads = not together or share.index == 0
  with CacheWriter(place, cache_plan, fingerprints, share) as writer:
    assembly = writer.assembly
    missing = writer.missing_shards()
    if leads and not assembly.is_complete:
      _keep_scan(assembly.ledger, scan, fingerprints)
    shard_pipeline.write_shards(
      writer,
      missing,
      passage_length=scan.passage_length,
      progress=progress,
      **options,
    )
    if together and leads:
      _wait(lambda: not assembly.unwritten())
    if leads and not assembly.unwritten():
      writer.finish()
    if not leads:
      _wait(lambda: _is_complete(place))
    return manifests.read_manifest(place)


def _wait(until: Callable[[], bool]) -> None:
  """Looks again and again: the processes may be hours apart."""
  while not until():
    time.sleep(_SECONDS_BETWEEN_LOOKS)


def _is_begun(
  place: places.Place, num_passages: int, fingerprints: Mapping[str, str]
) -> bool:
  """Whether share 0 has begun the cache, and told the lengths if it does."""
  try:
    if manifests.read_manifest(place).status == manifests.COMPLETE:
      return True
  except FileNotFoundError:
    return False
  return (
    'corpus' not in fingerprints
    or _kept_scan(place, num_passages, fingerprints) is not None
  )


def _is_complete(place: places.Place) -> bool:
  return manifests.read_manifest(place).status == manifests.COMPLETE


def _plan_of(
  scan: scans.Scan,
  codec_layout: CodecLayout,
  vocab_size: int,
  passages_per_shard: int | None,
) -> CachePlan:
  return plan(
    scan.lengths,
    codec_kind=codec_layout.kind,
    bits_bytes=codec_layout.bits_bytes,
    scale_bytes=codec_layout.scale_bytes,
    vocab_size=vocab_size,
    max_length=scan.passage_length,
    passages_per_shard=passages_per_shard,
  )


def _kept_of(
  num_passages: int, fingerprints: Mapping[str, str]
) -> dict[str, Any]:
  return {
    'passages': num_passages,
    'corpus': fingerprints.get('corpus'),
    'tokenizer': fingerprints.get('tokenizer'),
  }


def _keep_scan(
  ledger: Ledger, scan: scans.Scan, fingerprints: Mapping[str, str]
) -> None:
  of = _kept_of(len(scan.lengths), fingerprints)
  ledger.write_lengths(scan.lengths, scan.passage_length, of)


def _kept_scan(
  place: places.Place, num_passages: int, fingerprints: Mapping[str, str]
) -> scans.Scan | None:
  """What an interrupted build of the same corpus found out.

  Only where the caller names the corpus: otherwise its tokens must be read to
  know it. Each shard is held against these lengths when it is encoded.
  """
  if 'corpus' not in fingerprints:
    return None
  kept = Ledger(place).read_lengths(_kept_of(num_passages, fingerprints))
  if kept is None:
    return None
  lengths, passage_length = kept
  return scans.Scan(lengths, passage_length, None)
