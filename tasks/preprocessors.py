"""From questions with passages to token ids, for any DPR-style task.

Stages, in this order: `choose_passages`, `choose_answer`, `tokenize`. The
lengths come from `task_feature_lengths`: {'inputs': question tokens,
'passages': (passages, tokens per passage), 'targets': answer tokens}.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from btr_jax.data import encoding
from btr_jax.data import vocabulary as vocabulary_lib

Lengths = Mapping[str, Any] | None
_UNLIMITED = 1 << 30
# Features that hold an example's text, before `tokenize`.
TEXT_FEATURES = ('question', 'answers', 'titles', 'texts', 'has_answer')
_REWRITTEN = TEXT_FEATURES[:4]


def choose_passages(
  dataset: tf.data.Dataset,
  sequence_length: Lengths,
  num_passages: int | None = None,
  ensure_gold: bool = True,
  shuffle_passages: bool = True,
) -> tf.data.Dataset:
  """Keeps the first passages of each question.

  Args:
    dataset: examples of a `RecordSource`.
    sequence_length: `task_feature_lengths`; its 'passages' give the number.
    num_passages: how many at most; None leaves it to `sequence_length`, and
      without that keeps all.
    ensure_gold: in training, if no passage among the first ones holds the
      answer, the last of them gives way to the first one that does.
    shuffle_passages: in training, their order is random, so that the reader
      does not learn to trust the rank.

  Returns:
    The examples with titles, texts and has_answer of at most that many.
  """
  _, _, passages_limit, _ = lengths(sequence_length)
  limit = num_passages if num_passages is not None else passages_limit

  @seqio.map_over_dataset(num_seeds=1)
  def choose(example, seed):
    total = tf.shape(example['texts'])[0]
    kept = total if limit is None else tf.minimum(total, limit)
    order = tf.range(kept)
    holding = tf.cast(tf.where(example['has_answer'])[:, 0], tf.int32)
    if ensure_gold:
      first = tf.reduce_min(tf.concat([holding, [total]], 0))
      needed = example['training'] & (first >= kept) & (first < total)
      swapped = tf.concat([order[: kept - 1], [first]], 0)
      order = tf.cond(needed & (kept > 0), lambda: swapped, lambda: order)
    if shuffle_passages:
      noise = tf.random.stateless_uniform(tf.shape(order), seed)
      order = tf.cond(
        example['training'],
        lambda: tf.gather(order, tf.argsort(noise, stable=True)),
        lambda: order,
      )
    result = dict(example)
    for name in ('titles', 'texts', 'has_answer'):
      result[name] = tf.gather(example[name], order)
    return result

  return choose(dataset)


def rewrite_training(
  dataset: tf.data.Dataset, rewrite: Callable[..., tuple]
) -> tf.data.Dataset:
  """Passes the text of training examples through a Python function.

  Args:
    dataset: examples with passages.
    rewrite: rewrite(question, answers, titles, texts, has_answer, seed), all
      as bytes, gives the new question, answers, titles and texts; their seed
      is two integers of SeqIO's.

  Returns:
    Examples of the same structure; those of evaluation unchanged.
  """

  @seqio.map_over_dataset(num_seeds=1)
  def convert(example, seed):
    def rewritten():
      return tf.numpy_function(
        rewrite,
        [example[name] for name in TEXT_FEATURES] + [seed],
        [tf.string] * len(_REWRITTEN),
        stateful=False,
      )

    new = tf.cond(
      example['training'],
      rewritten,
      lambda: [example[name] for name in _REWRITTEN],
    )
    return {
      **example,
      **{
        name: tf.ensure_shape(value, [] if name == 'question' else [None])
        for name, value in zip(_REWRITTEN, new, strict=True)
      },
    }

  return convert(dataset)


def choose_answer(
  dataset: tf.data.Dataset, sample: bool = False
) -> tf.data.Dataset:
  """Adds 'answer': the first one, or in training one at random.

  Args:
    dataset: examples with 'answers'.
    sample: a random one at each step of training, for data whose answers are
      equals (Natural Questions); the Factbook's first answer is the string
      in the passage and the others are variants.
  """

  @seqio.map_over_dataset(num_seeds=1)
  def choose(example, seed):
    answers = example['answers']
    total = tf.shape(answers)[0]
    index = tf.constant(0)
    if sample:
      drawn = tf.random.stateless_uniform(
        [], seed, maxval=tf.maximum(total, 1), dtype=tf.int32
      )
      index = tf.where(example['training'], drawn, 0)
    padded = tf.concat([answers, ['']], 0)  # a question without answers
    return {**example, 'answer': padded[index]}

  return choose(dataset)


def tokenize(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Lengths,
) -> tf.data.Dataset:
  """Adds inputs [tokens], passages [passages, tokens], targets [tokens].

  The ids come from `btr_jax.data.encoding`, as those of caches and of
  questions at inference do. TensorFlow Text would do it in the graph, but the
  SentencePiece inside it settles ties between equally likely segmentations
  otherwise than the Python package (in one of 400 passages of the Factbook).
  """
  question_limit, passage_limit, _, answer_limit = lengths(sequence_length)
  seqio_vocabulary = output_features['inputs'].vocabulary

  def encode(question, titles, texts, answer):
    vocabulary = _plain_vocabulary(
      seqio_vocabulary.sentencepiece_model_file, seqio_vocabulary.extra_ids
    )
    inputs = encoding.question_ids(
      vocabulary, question.decode(), question_limit or _UNLIMITED
    )
    targets = encoding.answer_ids(
      vocabulary, answer.decode(), answer_limit or _UNLIMITED
    )
    rows = [
      encoding.passage_ids(
        vocabulary, title.decode(), text.decode(), passage_limit or _UNLIMITED
      )
      for title, text in zip(titles, texts, strict=True)
    ]
    passages = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for row, ids in enumerate(rows):
      passages[row, : len(ids)] = ids
    return np.array(inputs, np.int32), passages, np.array(targets, np.int32)

  @seqio.map_over_dataset
  def convert(example):
    inputs, passages, targets = tf.numpy_function(
      encode,
      [example[name] for name in ('question', 'titles', 'texts', 'answer')],
      [tf.int32, tf.int32, tf.int32],
      stateful=False,
    )
    return {
      **example,
      'inputs': tf.ensure_shape(inputs, [None]),
      'passages': tf.ensure_shape(passages, [None, None]),
      'targets': tf.ensure_shape(targets, [None]),
    }

  return convert(dataset)


@functools.lru_cache(maxsize=8)
def _plain_vocabulary(path: str, extra_ids: int) -> vocabulary_lib.Vocabulary:
  return vocabulary_lib.Vocabulary(path, extra_ids)


def lengths(
  sequence_length: Lengths,
) -> tuple[int | None, int | None, int | None, int | None]:
  """Reads `task_feature_lengths`.

  Returns:
    Question tokens, tokens per passage, passages, answer tokens; None where
    there is no limit.

  Raises:
    ValueError: 'passages' is not a pair.
  """
  given = dict(sequence_length or {})
  passages = given.get('passages') or (None, None)
  if not isinstance(passages, (tuple, list)) or len(passages) != 2:
    raise ValueError(
      f"task_feature_lengths['passages'] is {passages!r}; expected a pair "
      '(number of passages, tokens per passage), such as (8, 128).'
    )
  return given.get('inputs'), passages[1], passages[0], given.get('targets')
