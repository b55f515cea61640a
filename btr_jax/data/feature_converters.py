"""Task features into the features of `BtrModel`, for SeqIO."""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

_SPEC = seqio.FeatureConverter.FeatureSpec


class BtrFeatureConverter(seqio.FeatureConverter):
  """Pads questions on the left, passages and targets on the right.

  task features                     model features
  inputs [tokens]                   question_tokens [question_length]
  passages [passages, tokens]       passage_tokens [passages, passage_length]
  targets [tokens]                  decoder_target_tokens, decoder_input_tokens
                                    (shifted right, 0 first),
                                    decoder_loss_weights (1 on targets)

  The lengths are `task_feature_lengths`; that of 'passages' is a pair
  (passages, tokens). Features that are longer are cut.
  """

  TASK_FEATURES = {
    'inputs': _SPEC(dtype=tf.int32),
    'passages': _SPEC(dtype=tf.int32, rank=2),
    'targets': _SPEC(dtype=tf.int32),
  }
  MODEL_FEATURES = {
    'question_tokens': _SPEC(dtype=tf.int32),
    'passage_tokens': _SPEC(dtype=tf.int32, rank=2),
    'decoder_target_tokens': _SPEC(dtype=tf.int32),
    'decoder_input_tokens': _SPEC(dtype=tf.int32),
    'decoder_loss_weights': _SPEC(dtype=tf.float32),
  }
  PACKING_FEATURE_DTYPES = None

  def __init__(self, pack: bool = False, use_custom_packing_ops: bool = False):
    """T5X calls it with these two.

    Raises:
      ValueError: `pack` is set; a row holds one question with its passages,
        which cannot share it with another question's.
    """
    if pack:
      raise ValueError(
        'BtrFeatureConverter cannot pack examples: pack=True, expected '
        'pack=False (in gin: DatasetConfig.pack = False).'
      )
    # SeqIO's length check compares one dimension, passages have two; what is
    # too long is cut below instead.
    super().__init__(
      pack=False,
      use_custom_packing_ops=use_custom_packing_ops,
      apply_length_check=False,
    )

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, Any]
  ) -> tf.data.Dataset:
    question_length = task_feature_lengths['inputs']
    num_passages, passage_length = self._passage_lengths(task_feature_lengths)
    answer_length = task_feature_lengths['targets']

    def convert(features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      question = features['inputs'][-question_length:]
      question = tf.pad(question, [[question_length - tf.size(question), 0]])
      passages = features['passages'][:num_passages, :passage_length]
      shape = tf.shape(passages)
      passages = tf.pad(
        passages,
        [[0, num_passages - shape[0]], [0, passage_length - shape[1]]],
      )
      targets = features['targets'][:answer_length]
      targets = tf.pad(targets, [[0, answer_length - tf.size(targets)]])
      targets = tf.ensure_shape(targets, [answer_length])
      return {
        'question_tokens': tf.ensure_shape(question, [question_length]),
        'passage_tokens': tf.ensure_shape(
          passages, [num_passages, passage_length]
        ),
        'decoder_target_tokens': targets,
        'decoder_input_tokens': tf.concat([[0], targets[:-1]], 0),
        'decoder_loss_weights': tf.cast(targets != 0, tf.float32),
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, Any]
  ) -> Mapping[str, Any]:
    """Lengths of the model features, a pair for 'passage_tokens'."""
    answer_length = task_feature_lengths['targets']
    return {
      'question_tokens': task_feature_lengths['inputs'],
      'passage_tokens': self._passage_lengths(task_feature_lengths),
      'decoder_target_tokens': answer_length,
      'decoder_input_tokens': answer_length,
      'decoder_loss_weights': answer_length,
    }

  def _passage_lengths(
    self, task_feature_lengths: Mapping[str, Any]
  ) -> tuple[int, int]:
    lengths = task_feature_lengths['passages']
    if not isinstance(lengths, (tuple, list)) or len(lengths) != 2:
      raise ValueError(
        f"task_feature_lengths['passages'] is {lengths!r}; expected a pair "
        '(number of passages, tokens per passage), such as (8, 128).'
      )
    return tuple(lengths)
