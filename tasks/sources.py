"""A SeqIO data source over DPR-style JSON Lines files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
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

  Shuffling permutes the whole split, by seed, so a task over this source needs
  no shuffle buffer. Lines are parsed when their turn comes: memory holds
  their offsets only, and the corpus if the file refers to passages by id.

  Examples have the features id, question, answers [n], titles [passages],
  texts [passages], has_answer [passages] (false where unknown) and training
  (whether the split is 'train'; preprocessors may treat it differently).
  """

  def __init__(
    self,
    path_of_split: Mapping[str, Callable[[], str | Sequence[str]]],
    extra: Sequence[str] = (),
  ):
    """Takes a function per split, called when the data is first read.

    Args:
      path_of_split: gives the file of a split, or its files in order.
      extra: keys of `Record.extra` that become features, as text; empty
        where a record lacks one.
    """
    self._path_of_split = dict(path_of_split)
    self._extra = tuple(extra)
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
        'A RecordSource cannot be read in parts, found '
        f'num_shards={shard_info.num_shards}. SeqIO shards its examples.'
      )
    return self._dataset(split=split, shuffle_files=shuffle, seed=seed)

  @property
  def performs_internal_shuffling(self) -> bool:
    return True

  def num_input_examples(self, split: str) -> int:
    """Number of questions; a split that is not there is a ValueError."""
    return sum(len(line_offsets(path)) for path in self._paths(split))

  def _paths(self, split: str) -> list[str]:
    if split not in self._path_of_split:
      raise ValueError(
        f'There is no split {split!r}; expected one of '
        f'{sorted(self._path_of_split)}.'
      )
    found = self._path_of_split[split]()
    return [found] if isinstance(found, str) else list(found)

  def _dataset(
    self, split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    paths = self._paths(split)

    def examples() -> Iterator[dict[str, Any]]:
      offsets = [line_offsets(path) for path in paths]
      ends = np.cumsum([len(lines) for lines in offsets])
      order = np.arange(ends[-1])
      if shuffle_files:
        np.random.default_rng(seed).shuffle(order)
      corpora: dict[int, Mapping[str, records.Passage] | None] = {}
      with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, 'rb')) for path in paths]
        for position in order:
          which = int(np.searchsorted(ends, position, side='right'))
          number = position - (ends[which] - len(offsets[which]))
          files[which].seek(offsets[which][number])
          where = f'{paths[which]}, line {number + 1}'
          value = records.parse_line(files[which].readline(), where)
          if which not in corpora and records.has_references(value):
            corpora[which] = _corpus(paths[which])
          yield to_features(
            records.record_from_json(value, where, corpora.get(which)),
            split == 'train',
            self._extra,
          )

    signature = SIGNATURE | {
      name: tf.TensorSpec([], tf.string) for name in self._extra
    }
    return tf.data.Dataset.from_generator(examples, output_signature=signature)


def to_features(
  record: records.Record, training: bool, extra: Sequence[str] = ()
) -> dict[str, Any]:
  """A record as the features of an example."""
  return {
    'id': record.id,
    'question': record.question,
    'answers': list(record.answers),
    'titles': [context.title for context in record.contexts],
    'texts': [context.text for context in record.contexts],
    'has_answer': [bool(context.has_answer) for context in record.contexts],
    'training': training,
    **{name: str(record.extra.get(name, '')) for name in extra},
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
