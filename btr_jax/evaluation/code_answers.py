"""What a reader still answers when its passages went through a code.

The reader is a decomposed one that never saw the code, so this is the floor
that training of stage 3 starts from. Errors of states (`code_errors.py`) do not
tell it: a code may spend its bytes on directions that no answer depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import config as config_lib
from btr_jax.data import encoding, prompts, records
from btr_jax.evaluation import answer_metrics
from btr_jax.models import model as model_lib
from btr_jax.models import reader_files

_BATCH = 8


class CodeAnswers:
  """Scores codes on the same questions."""

  def __init__(
    self,
    reader: reader_files.LoadedReader,
    questions: Sequence[records.Record],
  ):
    """Encodes the questions once.

    Args:
      reader: a decomposed reader.
      questions: with passages and answers.

    Raises:
      ValueError: no question.
    """
    if not questions:
      raise ValueError('There are no questions; expected at least one.')
    self._reader = reader
    self._answers = [record.answers for record in questions]
    self._batches = []
    for start in range(0, len(questions), _BATCH):
      group = list(questions[start : start + _BATCH])
      # The last batch repeats a question: one shape, one program.
      group += group[:1] * (_BATCH - len(group))
      self._batches.append(
        encoding.make_record_batch(reader.vocabulary, group, reader.limits)
      )

  def score(
    self, codec: config_lib.CodecConfig, codec_params: Mapping[str, Any]
  ) -> dict[str, float]:
    """Answers of mode binary with this codec in place of floats.

    Args:
      codec: the codec.
      codec_params: its parameters, nested; those that only training uses may
        be left out.

    Returns:
      `em` and `f1` in per cent, and `nats`, the negative log probability of
      the first answer, per question.
    """
    reader = self._reader
    config = dataclasses.replace(reader.config, codec=codec)
    model = model_lib.BtrModel(config, reader.limits, stage=3)
    params = {**reader.params, 'codec': _whole(model, codec_params)}
    predict, score = jax.jit(model.predict_batch), jax.jit(model.score_batch)
    texts, scores = [], []
    for batch in self._batches:
      texts += [
        prompts.parse_answer(reader.vocabulary.decode(row))
        for row in np.asarray(predict(params, batch))
      ]
      scores.append(np.asarray(score(params, batch)))
    count = len(self._answers)
    found = answer_metrics.answer_scores(texts[:count], self._answers)
    return {**found, 'nats': -float(np.concatenate(scores)[:count].mean())}


def _whole(model, codec_params):
  # Flax asks for every parameter, also for the recovery head, which no answer
  # depends on: zeros stand in for it.
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params'].get('codec', {})
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  return {**zeros, **jax.tree.map(jnp.asarray, dict(codec_params))}
