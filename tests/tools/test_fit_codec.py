"""`btr fit-codec`: a binary reader without training, and what is refused."""

import json

import numpy as np
import pytest

from btr_jax.data import encoding, records
from btr_jax.models import reader_files, trees
from btr_jax.tools import common, fit_codec


@pytest.fixture
def corpus(tmp_path, tiny_passages):
  path = tmp_path / 'passages.jsonl'
  records.write_passages(path, tiny_passages)
  return path


def test_the_reader_stays_and_gets_a_codec(
  corpus, tmp_path, tiny_family, tiny_passages, capsys
):
  output = tmp_path / 'binary'
  argv = [str(tiny_family), '--corpus', str(corpus), '--output', str(output)]
  settings = ['--bits', '128', '--bits-per-dim', '8', '--passages', '50']
  settings += ['--scale-bits', '16']
  assert common.run(fit_codec.main, [*argv, *settings]) == 0
  record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
  assert record['passages'] == 24
  assert record['bytes_per_token'] == 16 + 3
  old = reader_files.load_reader(tiny_family, mode='decomposed')
  reader = reader_files.load_reader(output)
  assert reader.config.codec.bits_per_dim == 8
  found = trees.flat_params(reader.params)
  for name, value in trees.flat_params(old.params).items():
    np.testing.assert_array_equal(found[name], value)
  # The codec is what the same statistics give anywhere.
  pairs = [(passage.title, passage.text) for passage in tiny_passages]
  tokens = encoding.encode_passages(
    reader.vocabulary, pairs, reader.limits.passage_length
  )
  again = reader.model.fit_codec(old.params, [tokens])['codec']
  for name, value in again.items():
    if name != 'rotation':  # Directions have no sign, and some no spread.
      np.testing.assert_allclose(found[f'codec/{name}'], value, atol=1e-3)
  # And it is not written twice.
  assert common.run(fit_codec.main, argv) == 2
  assert 'there already' in capsys.readouterr().err


def test_settings_that_do_not_fit(corpus, tmp_path, tiny_family, capsys):
  output = tmp_path / 'binary'
  argv = [str(tiny_family), '--corpus', str(corpus), '--output', str(output)]
  assert common.run(fit_codec.main, [*argv, '--bits', '12']) == 2
  assert 'codec.num_bits is 12' in capsys.readouterr().err
  assert not output.exists()
