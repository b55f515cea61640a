"""btr measure-build: its parts, on corpora of a few passages."""

from __future__ import annotations

import json


def test_measure_build(last_json, tiny_family, tmp_path):
  output = tmp_path / 'record.json'
  record = last_json(
    'measure-build',
    *('--reader', tiny_family, '--passages', '8', '--repeats', '1'),
    *('--most', '1500', '--write-shards', '1'),
    *('--folder', tmp_path, '--output', output),
  )
  assert json.loads(output.read_text()) == record
  speed = record['speed']
  assert speed['passages'] == 8 and speed['tokens'] > 8
  rates = speed['passages_per_second']
  assert rates.keys() == {'forward', 'build', 'build_and_tokenize', 'tokenize'}
  part = speed['of_the_forward_pass']['build']['median']
  assert part == rates['build']['median'] / rates['forward']['median']
  (memory,) = record['memory']
  assert memory['passages'] == 1500
  at_the_end = memory['resident_bytes_at_the_end']
  assert 2**20 < at_the_end <= memory['peak_resident_bytes']
  # Bits, scale, token ids, offsets, checksums of 1,024 passages.
  assert all(row['bytes'] >= 1024 * 128 * 100 for row in record['writing'])
  assert [path.name for path in tmp_path.iterdir()] == ['record.json']
