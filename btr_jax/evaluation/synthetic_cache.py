"""Caches without a model behind them, to measure reading and compressing."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib

from jaxtyping import Int64
import numpy as np

from btr_jax.cache import arrays, checksums
from btr_jax.cache import manifest as manifests
from btr_jax.cache import plan as plans
from btr_jax.cache.plan import CachePlan
from btr_jax.cache.writer import CacheWriter

VOCAB_SIZE = 32_128
# Frequent ids that stand for stop words: about half of all tokens, as on
# Wikipedia.
NUM_STOP_IDS = 120
FINGERPRINTS = dict.fromkeys(
  ('model', 'codec', 'tokenizer', 'corpus'), 'synthetic'
)


def stop_ids() -> Int64[np.ndarray, 'stop']:
  """The most frequent ids of `build_random`."""
  return np.arange(1, NUM_STOP_IDS + 1)


def _plan(
  num_passages: int, length: int, bits_bytes: int, scale_bytes: int
) -> CachePlan:
  return plans.plan(
    np.full(num_passages, length),
    codec_kind='calibrated',
    bits_bytes=bits_bytes,
    scale_bytes=scale_bytes,
    vocab_size=VOCAB_SIZE,
    max_length=length,
  )


def build_random(
  path: pathlib.Path,
  num_passages: int,
  *,
  length: int = 128,
  bits_bytes: int = 96,
  scale_bytes: int = 2,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> CachePlan:
  """Writes a cache of random bits, by the writer that all caches come from.

  Ids follow Zipf's law. Random bits take as long to match as real ones do.
  """
  plan = _plan(num_passages, length, bits_bytes, scale_bytes)
  weights = 1 / (np.arange(1, VOCAB_SIZE) + 2.7)
  edges = np.cumsum(weights) / weights.sum()
  with CacheWriter(path, plan, FINGERPRINTS) as writer:
    for shard in writer.missing_shards():
      random = np.random.default_rng([seed, shard])
      rows = plan.shard_rows(shard)
      # bfloat16 numbers of one to two, or one byte from the upper half.
      scale = random.integers(0, 128, (rows, scale_bytes), np.uint8)
      scale[:, 1::2] = 0x3F
      scale[:, ::2] |= 0x80
      writer.write_shard(
        shard,
        random.integers(0, 256, (rows, bits_bytes), np.uint8),
        scale,
        1 + np.searchsorted(edges, random.random(rows)),
      )
      if progress:
        progress(shard + 1, plan.num_shards)
    writer.finish()
  return plan


def build_sparse(
  path: pathlib.Path,
  num_passages: int,
  *,
  length: int = 128,
  bits_bytes: int = 96,
  scale_bytes: int = 2,
) -> CachePlan:
  """Makes a cache of zeros whose token files are sparse: any size, little disk.

  Offsets, checksums, shard indexes and manifest are real, so that it opens and
  looks up like a cache of that size. The ledger's SHA-256 are not (hashing the
  holes would take hours): `verify` would refuse it, opening does not read them.
  """
  plan = _plan(num_passages, length, bits_bytes, scale_bytes)
  layout = plan.layout
  path.mkdir(parents=True)
  for array in layout.arrays:
    arrays.open_array(path, layout, array, create=True)
  entries = []
  for shard in range(plan.num_shards):
    lengths = plan.shard_lengths(shard)
    rows = plan.shard_rows(shard)
    starts = np.cumsum(lengths, dtype=np.uint32) - lengths
    content = {
      'passage_starts': starts.astype('<u4'),
      'passage_lengths': lengths,
      # The checksum of zeros, however many.
      'passage_checksums': np.full(
        len(lengths), checksums.EMPTY_CHECKSUM, '<u8'
      ),
    }
    files = {}
    for array in layout.arrays:
      count = layout.rows_of(array, shard, rows)
      size = array.file_bytes(count)
      with open(path / array.file_name(shard), 'wb') as file:
        if array.name in content:
          file.write(content[array.name].tobytes())
        file.seek(size - array.index_bytes)
        file.write(array.expected_index(count).tobytes())
        os.ftruncate(file.fileno(), size)
      files[array.name] = manifests.FileEntry(size, '0' * 64)
    entries.append(manifests.ShardEntry(shard, rows, files))
  complete = manifests.Manifest(
    layout, FINGERPRINTS, manifests.COMPLETE, {}, tuple(entries)
  )
  manifests.write_manifest(path, complete)
  return plan
