"""A SeqIO data source over a DPR-style JSON Lines file."""

from collections.abc import Callable, Iterator, Mapping
import functools
import os
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from btr_jax.data import records

SIGNATURE = {
  'id': tf.TensorSpec([], tf.string),
  'question': tf.TensorSpec([], tf.string),
  'answers': tf.TensorSpec([None], tf.string),
  'titles': tf.TensorSpec([None], tf.string),
  'texts': tf.TensorSpec([None], tf.string),
  'has_answer': tf.TensorSpec([None], tf.bool),
  'training': tf.TensorSpec([], tf.bool),
}


class RecordSource(seqio.FunctionDataSource):
  """Questions with retrieved passages, one JSON object per line.

  Shuffling permutes the whole file, by seed, so a task over this source needs
  no shuffle buffer. Lines are parsed when their turn comes: memory holds
  their offsets only, and the corpus if the file refers to passages by id.

  Examples have the features id, question, answers [n], titles [passages],
  texts [passages], has_answer [passages] (false where unknown) and training
  (whether the split is 'train'; preprocessors may treat it differently).
  """

  def __init__(self, path_of_split: Mapping[str, Callable[[], str]]):
    """Takes a function per split, called when the data is first read."""
    self._path_of_split = dict(path_of_split)
    super().__init__(dataset_fn=self._dataset, splits=list(path_of_split))

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The base class's, without its warning that shuffling is poor here."""
    del unused
    if shard_info and shard_info.num_shards > 1:
      raise ValueError(
        f'A RecordSource is one file, found num_shards={shard_info.num_shards}'
        '. SeqIO shards its examples instead.'
      )
    return self._dataset(split=split, shuffle_files=shuffle, seed=seed)

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def num_input_examples(self, split: str) -> int:
    """Number of questions; a split that is not there is a ValueError."""
    return len(line_offsets(self._path(split)))

  def _path(self, split: str) -> str:
    if split not in self._path_of_split:
      raise ValueError(
        f'There is no split {split!r}; expected one of '
        f'{sorted(self._path_of_split)}.'
      )
    return self._path_of_split[split]()

  def _dataset(
    self, split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    path = self._path(split)

    def examples() -> Iterator[dict[str, Any]]:
      offsets = line_offsets(path)
      order = np.arange(len(offsets))
      if shuffle_files:
        np.random.default_rng(seed).shuffle(order)
      corpus = None
      with open(path, 'rb') as file:
        for number in order:
          file.seek(offsets[number])
          where = f'{path}, line {number + 1}'
          value = records.parse_line(file.readline(), where)
          if corpus is None and records.has_references(value):
            corpus = _corpus(path)
          yield to_features(
            records.record_from_json(value, where, corpus), split == 'train'
          )

    return tf.data.Dataset.from_generator(examples, output_signature=SIGNATURE)


def to_features(record: records.Record, training: bool) -> dict[str, Any]:
  """A record as the features of an example."""
  return {
    'id': record.id,
    'question': record.question,
    'answers': list(record.answers),
    'titles': [context.title for context in record.contexts],
    'texts': [context.text for context in record.contexts],
    'has_answer': [bool(context.has_answer) for context in record.contexts],
    'training': training,
  }


def line_offsets(path: str) -> np.ndarray:
  """Byte offsets of the lines of a file, kept until the file changes."""
  status = os.stat(path)
  return _line_offsets(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _line_offsets(path: str, modified: int, size: int) -> np.ndarray:
  del modified, size  # part of the key only
  offsets = []
  position = 0
  with open(path, 'rb') as file:
    for line in file:
      if line.strip():
        offsets.append(position)
      position += len(line)
  return np.array(offsets, np.int64)


def _corpus(path: str) -> Mapping[str, records.Passage] | None:
  beside = records.corpus_file_beside(path)
  if beside is None:
    return None
  return _read_corpus(beside, os.stat(beside).st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_corpus(path: str, modified: int) -> dict[str, records.Passage]:
  del modified  # part of the key only
  return {passage.id: passage for passage in records.read_passages(path)}
