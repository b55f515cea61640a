"""The letter of a choice by the decoder's logits, not by what it writes.

The target of such a question is the sentinel and a letter. The decoder is
given what all four targets begin with, the sentinel, and the letter whose
token has the highest logit at the step behind it is the answer. (The step
before, where the sentinel itself is predicted, says nothing of letters.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax.data import encoding, prompts, records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.models import model as model_lib
from btr_jax.models import reader as reader_lib
from btr_jax.serving import engine as engine_lib


@dataclasses.dataclass(frozen=True)
class Letters:
  """The letters as a vocabulary writes them behind the sentinel.

  Attributes:
    prefix: tokens that all four targets begin with.
    ids: the token of each letter that follows.
    targets: the whole target of each letter, with eos.
  """

  prefix: tuple[int, ...]
  ids: tuple[int, ...]
  targets: tuple[tuple[int, ...], ...]

  @classmethod
  def of(cls, vocabulary: vocabulary_lib.Vocabulary) -> Letters:
    """Finds the tokens.

    Raises:
      ValueError: the vocabulary does not tell the letters apart.
    """
    targets = [
      tuple(encoding.answer_ids(vocabulary, letter, 16))
      for letter in prompts.LETTERS
    ]
    same = len(os.path.commonprefix(targets))
    ids = tuple(target[same] for target in targets if len(target) > same)
    if len(set(ids)) != len(targets) or vocabulary.unk_id in ids:
      raise ValueError(
        f'The vocabulary {vocabulary.path} writes the letters '
        f'{", ".join(prompts.LETTERS)} as {targets}; expected a token of its '
        "own for each. Use a vocabulary with these letters, such as T5's."
      )
    return cls(targets[0][:same], ids, tuple(targets))


def letter_logits(
  model: model_lib.BtrModel,
  params: Any,
  encoded: reader_lib.Encoded,
  letters: Letters,
) -> Float[Array, 'batch letters']:
  """Logits of the letters at the step where a letter is expected.

  Args:
    model: the reader.
    params: its parameters.
    encoded: questions with their passages, from `model.encode`.
    letters: of the reader's vocabulary.

  Returns:
    float32 [batch, 4].
  """
  inputs = jnp.asarray([reader_lib.PAD_ID, *letters.prefix], jnp.int32)
  logits = model.module.apply(
    model.variables(params),
    encoded.states,
    encoded.mask,
    jnp.tile(inputs, (encoded.states.shape[0], 1)),
    method='decode_all',
  )
  chosen = logits[:, -1][:, jnp.asarray(letters.ids)]
  return chosen.astype(jnp.float32)


def predict_letters(
  model: model_lib.BtrModel,
  params: Any,
  batch: model_lib.Batch,
  letters: Letters,
) -> Int[Array, 'batch answer_length']:
  """Like `model.predict_batch`, the tokens of the best letter's target."""
  logits = letter_logits(model, params, model.encode(params, batch), letters)
  length = model.limits.answer_length
  table = np.zeros((len(letters.targets), length), np.int32)
  for row, target in enumerate(letters.targets):
    table[row, : len(target[:length])] = target[:length]
  return jnp.asarray(table)[jnp.argmax(logits, axis=-1)]


@runtime_checkable
class TellsLetters(Protocol):
  """What answers; `LetterEngine` is one."""

  def letter_logits(
    self, asked: Sequence[records.Record]
  ) -> Float[np.ndarray, 'batch letters']: ...


class LetterEngine(engine_lib.Engine):
  """An engine that also tells the logits of the letters."""

  def letter_logits(
    self, asked: Sequence[records.Record]
  ) -> Float[np.ndarray, 'batch letters']:
    """Logits of the letters for questions that hold their passages.

    Args:
      asked: read as one batch.

    Returns:
      float32 [questions, 4].

    Raises:
      ValueError: as `read`.
    """
    found = [record.contexts[: self.num_passages] for record in asked]
    question_tokens = self.features.question_tokens(
      [record.question for record in asked]
    )
    batch = jax.device_put(self.features.batch(question_tokens, found))
    memory = self._programs.run('encode', batch)
    score = self._score(self._programs.params, memory)
    return np.asarray(score)[: len(asked)]

  @functools.cached_property
  def _score(self):
    letters = Letters.of(self._reader.vocabulary)

    def score(params, memory):
      encoded = reader_lib.Encoded(memory['states'], memory['mask'])
      return letter_logits(self._programs.model, params, encoded, letters)

    return jax.jit(score)


def rotated(record: records.Record, shift: int) -> records.Record:
  """The question with its choices moved: the last `shift` come first.

  Raises:
    ValueError: the record holds no choices.
  """
  try:
    stem, choices = record.extra['stem'], list(record.extra['choices'])
  except KeyError:
    raise ValueError(
      f'The question {record.id!r} holds no choices; expected "stem" and '
      '"choices" beside it, as the task `mmlu` prepares them.'
    ) from None
  choices = choices[-shift:] + choices[:-shift] if shift else choices
  return dataclasses.replace(
    record, question=prompts.format_choices(stem, choices)
  )


def predict(
  engine: TellsLetters,
  asked: Sequence[records.Record],
  *,
  batch_size: int = 1,
  cyclic: bool = False,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
  """The letter of every question.

  Args:
    engine: the reader.
    asked: questions with their passages.
    batch_size: questions read at once.
    cyclic: ask each question four times, with its choices in every cyclic
      order, and add up what each choice gets (its share of the softmax over
      letters), so that a liking for a letter evens out.
    progress: called with questions done and questions in all.

  Returns:
    One letter per question, for the choices in their given order.
  """
  shifts = range(len(prompts.LETTERS)) if cyclic else range(1)
  letters = []
  for start in range(0, len(asked), batch_size):
    batch = asked[start : start + batch_size]
    totals = np.zeros((len(batch), len(prompts.LETTERS)), np.float64)
    for shift in shifts:
      order = [rotated(record, shift) for record in batch] if shift else batch
      shares = np.asarray(
        jax.nn.softmax(jnp.asarray(engine.letter_logits(order)), axis=-1),
        np.float64,
      )
      # Choice c stands at letter c + shift.
      totals += np.roll(shares, -shift, axis=1)
    letters += [prompts.LETTERS[best] for best in totals.argmax(axis=1)]
    progress(len(letters), len(asked))
  return letters
