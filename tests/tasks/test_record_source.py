"""Reading and shuffling JSON Lines for SeqIO."""

import pytest

pytest.importorskip('seqio')


def ids(source, split, **options):
  dataset = source.get_dataset(split, **options)
  return [e['id'].decode() for e in dataset.as_numpy_iterator()]


def test_examples_hold_what_the_file_holds(tiny_source, tiny_files):
  from btr_jax.data import records

  for split in ('train', 'test'):
    expected = records.read_records(tiny_files / f'{split}.jsonl')
    found = tiny_source.get_dataset(split, shuffle=False).as_numpy_iterator()
    for example, record in zip(found, expected, strict=True):
      assert example['question'].decode() == record.question
      assert [a.decode() for a in example['answers']] == list(record.answers)
      assert [t.decode() for t in example['texts']] == [
        context.text for context in record.contexts
      ]
      assert list(example['has_answer']) == [
        bool(context.has_answer) for context in record.contexts
      ]
      assert example['training'] == (split == 'train')


def test_shuffling_permutes_the_whole_file_by_seed(tiny_source):
  plain = ids(tiny_source, 'train', shuffle=False)
  first = ids(tiny_source, 'train', shuffle=True, seed=1)
  assert plain == [f'q{i}' for i in range(12)]
  assert sorted(first) == sorted(plain)
  assert first != plain
  assert first == ids(tiny_source, 'train', shuffle=True, seed=1)
  assert first != ids(tiny_source, 'train', shuffle=True, seed=2)


def test_number_of_examples_ignores_blank_lines(tmp_path):
  from btr_jax.tasks import sources

  path = tmp_path / 'q.jsonl'
  path.write_text('{"question": "a"}\n\n{"question": "b"}\n')
  source = sources.RecordSource({'test': lambda: str(path)})
  assert source.num_input_examples('test') == 2
  assert ids(source, 'test', shuffle=False) == ['a', 'b']
  path.write_text('{"question": "a"}\n')
  assert source.num_input_examples('test') == 1


def test_unknown_split(tiny_source):
  with pytest.raises(ValueError, match=r"no split 'dev'.*\['test', 'train'\]"):
    tiny_source.num_input_examples('dev')


def test_sharding_is_left_to_seqio(tiny_source):
  import seqio

  with pytest.raises(ValueError, match='num_shards=2'):
    tiny_source.get_dataset('train', shard_info=seqio.ShardInfo(0, 2))
