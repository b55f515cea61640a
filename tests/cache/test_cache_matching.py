"""Bipartite matching by Hamming distance, held against plain loops."""

from __future__ import annotations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from btr_jax.cache.compression import matching, stop_words, vectors
from btr_jax.cache.compression.grouping import assign_buckets
from btr_jax.cache.compression.scales import ScaleFormat
from btr_jax.models import levels as codec_levels


def random_bits(count, width=4, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


def hamming(left, right):
  return int(np.bitwise_count(left ^ right).sum())


def test_nearest_is_the_first_of_the_nearest(monkeypatch):
  left, right = random_bits(37, seed=1), random_bits(29, seed=2)
  right[7] = right[3]
  monkeypatch.setattr(matching, '_SIMILARITIES', 29 * 10)  # blocks of ten
  index, distance = matching.nearest(left, right)
  for row in range(37):
    expected = [hamming(left[row], other) for other in right]
    assert distance[row] == min(expected)
    assert index[row] == expected.index(min(expected))


def merge_by_loops(bits, values, count):
  """What merge has to do, token by token: gone -> into, new vectors."""
  first, second = range(0, len(bits), 2), range(1, len(bits), 2)
  edges = []
  for a in first:
    distances = [hamming(bits[a], bits[b]) for b in second]
    best = int(np.argmin(distances))
    edges.append((distances[best], a, second[best]))
  into = {a: b for _, a, b in sorted(edges)[:count]}
  new = {}
  for b in sorted(set(into.values())):
    members = [b, *(a for a in into if into[a] == b)]
    signs = np.unpackbits(bits[members], axis=1).astype(int) * 2 - 1
    total = signs.sum(axis=0)
    merged = np.where(total == 0, signs[0] > 0, total > 0)
    scale = sum(values[m] for m in members) / len(members)
    new[b] = (np.packbits(merged), scale, len(members))
  return into, new


@pytest.mark.parametrize('count', [0, 1, 5, 12])
def test_merge_is_what_the_loops_do(count):
  bits = random_bits(25)
  numbers = np.random.default_rng(3).uniform(1, 9, 25).astype(np.float32)
  numbers = numbers.astype(ml_dtypes.bfloat16)
  scale = numbers.view(np.uint8).reshape(25, 2)
  merged = matching.merge(bits, scale, count, ScaleFormat('calibrated', 2))
  into, new = merge_by_loops(bits, numbers.astype(np.float64), count)
  assert len(merged.gone) == count
  pairs = zip(merged.gone.tolist(), merged.into.tolist(), strict=True)
  assert dict(pairs) == into
  assert merged.kept.tolist() == list(new)
  for row, place in enumerate(merged.kept.tolist()):
    expected_bits, expected_scale, size = new[place]
    np.testing.assert_array_equal(merged.bits[row], expected_bits)
    assert merged.sizes[row] == size
    found = merged.scale[row].view(ml_dtypes.bfloat16)[0]
    assert found == np.float32(expected_scale).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_levels_come_back_and_lie_as_the_codec_lays_them(bits):
  packed = random_bits(50, 6)
  levels = vectors.unpack(packed, bits)
  expected = codec_levels.unpack(jnp.asarray(packed), bits)
  np.testing.assert_array_equal(levels, expected)
  np.testing.assert_array_equal(vectors.pack(levels, bits), packed)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_levels_merge_with_the_nearest_into_the_level_next_to_the_mean(bits):
  packed = random_bits(24, 4, seed=bits)
  levels = vectors.unpack(packed, bits).astype(int)
  kind = f'residual_{bits}bit'
  scale = random_bits(24, 2, seed=9)
  merged = matching.merge(packed, scale, 7, ScaleFormat(kind, 2))
  first, second = range(0, 24, 2), range(1, 24, 2)
  edges = []
  for a in first:
    distances = [np.square(levels[a] - levels[b]).sum() for b in second]
    edges.append((min(distances), a, second[int(np.argmin(distances))]))
  into = {a: b for _, a, b in sorted(edges)[:7]}
  pairs = zip(merged.gone.tolist(), merged.into.tolist(), strict=True)
  assert dict(pairs) == into
  found = vectors.unpack(merged.bits, bits)
  allowed = np.arange(1 - 2**bits, 2**bits, 2)
  for row, place in enumerate(merged.kept.tolist()):
    members = [place, *(a for a in into if into[a] == place)]
    mean = levels[members].mean(axis=0)
    for value, wanted, own in zip(found[row], mean, levels[place], strict=True):
      gaps = np.abs(allowed - wanted)
      nearest = allowed[gaps == gaps.min()]
      tied = nearest[np.argmin(np.abs(nearest - own))]
      assert value == (nearest[0] if len(nearest) == 1 else tied)


def test_shared_levels_take_the_lower_of_a_tie():
  sums = np.array([[0, 2, -2, 4, 6]])
  found = vectors.mean(np.pad(sums, ((0, 0), (0, 3))), np.array([2]), 2)
  assert vectors.unpack(found, 2)[0, :5].tolist() == [-1, 1, -1, 1, 3]


def test_no_more_than_half_can_be_merged():
  bits = random_bits(9)
  merged = matching.merge(bits, bits[:, :0], 9, ScaleFormat('sign', 0))
  assert len(merged.gone) == 4
  one = matching.merge(bits[:1], bits[:1, :0], 1, ScaleFormat('sign', 0))
  assert len(one.gone) == 0


def test_no_vector_stands_for_more_than_its_size_can_say(monkeypatch):
  monkeypatch.setattr(matching, 'MAX_SIZE', 3)
  bits = np.zeros((20, 4), np.uint8)  # all equal: all want the same partner
  bits[1] = 255  # so that it is not the very first of the second set
  merged = matching.merge(bits, bits[:, :0], 10, ScaleFormat('sign', 0))
  assert merged.gone.tolist() == [0, 2] and merged.into.tolist() == [3, 3]
  assert merged.sizes.tolist() == [3]


def test_scales_come_back_and_round_as_bfloat16_does():
  random = np.random.default_rng(0)
  numbers = random.uniform(-100, 100, 500).astype(np.float32)
  raw = numbers.astype(ml_dtypes.bfloat16).view(np.uint8).reshape(-1, 2)
  residual = np.concatenate([raw, random_bits(500, 1)], axis=1)
  scales = ScaleFormat('residual', 3)
  np.testing.assert_array_equal(
    scales.encode(scales.decode(residual)), residual
  )
  found = ScaleFormat('calibrated', 2).encode(numbers[:, None].astype(float))
  np.testing.assert_array_equal(found, raw)


def test_a_codec_without_bits_is_refused():
  with pytest.raises(ValueError, match="'float' cannot be compressed"):
    ScaleFormat('float', 0)
  with pytest.raises(ValueError, match='5 scale bytes'):
    ScaleFormat('residual', 5)


def test_stop_pieces():
  pieces = ['<pad>', '</s>', '▁the', 'the', '▁The', '▁US', '▁WHO', ',', '▁(']
  pieces += ['▁', '▁capital', '▁12', '%', '▁may', '<extra_id_0>', '▁Of']
  found = {pieces[i] for i in stop_words.stop_ids(pieces)}
  assert found == {'▁the', '▁The', ',', '▁(', '▁', '%', '▁Of'}


def test_buckets_hold_no_more_than_they_may():
  counts = np.array([3, 0, 4, 9, 1, 1, 1])
  assert assign_buckets(counts, 5).tolist() == [0, -1, 1, 2, 3, 3, 3]
