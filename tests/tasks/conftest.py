"""A task over the tiny corpus, and TensorFlow kept off the accelerator."""

import contextlib
import warnings

import pytest

with warnings.catch_warnings():
  # TensorFlow and its companions warn on import; not ours to mend.
  warnings.simplefilter('ignore')
  seqio = pytest.importorskip('seqio')


@pytest.fixture(scope='session')
def tiny_files(tmp_path_factory, tiny_passages, tiny_records):
  """A folder of train (passages by id) and test (passages in full)."""
  import dataclasses

  from btr_jax.data import records

  folder = tmp_path_factory.mktemp('tiny_task')
  judged = [
    dataclasses.replace(
      record,
      answers=(*record.answers, record.answers[0].upper()),
      contexts=tuple(
        dataclasses.replace(
          context, has_answer=record.answers[0] in context.text
        )
        for context in record.contexts
      ),
    )
    for record in tiny_records
  ]
  records.write_passages(folder / 'passages.jsonl', tiny_passages)
  records.write_records(folder / 'train.jsonl', judged, with_texts=False)
  records.write_records(folder / 'test.jsonl', judged)
  return folder


@pytest.fixture(scope='session')
def tiny_source(tiny_files):
  from btr_jax.tasks import sources

  return sources.RecordSource(
    {
      split: lambda split=split: str(tiny_files / f'{split}.jsonl')
      for split in ('train', 'test')
    }
  )


@pytest.fixture(scope='session')
def tiny_features(tiny_vocabulary_file):
  vocabulary = seqio.SentencePieceVocabulary(str(tiny_vocabulary_file), 100)
  return {
    'inputs': seqio.Feature(vocabulary, add_eos=False),
    'passages': seqio.Feature(vocabulary, add_eos=False, rank=2),
    'targets': seqio.Feature(vocabulary),
  }


@pytest.fixture(scope='session')
def tiny_task(tiny_source, tiny_features):
  """The name of a registered task; it is taken out again at the end."""
  from btr_jax.tasks import preprocessors

  name = 'btr_tiny_capitals'
  seqio.TaskRegistry.add(
    name,
    source=tiny_source,
    preprocessors=[
      preprocessors.choose_passages,
      preprocessors.choose_answer,
      preprocessors.tokenize,
    ],
    output_features=tiny_features,
    shuffle_buffer_size=None,
  )
  yield name
  with contextlib.suppress(ValueError, KeyError):
    seqio.TaskRegistry.remove(name)
