"""Questions, passages and answers as arrays of token ids (numpy only)."""

from collections.abc import Sequence
import functools
import logging

from jaxtyping import Float32, Int32
import numpy as np

from btr_jax import config as config_lib
from btr_jax.data import prompts, records
from btr_jax.data import vocabulary as vocabulary_lib

_logger = logging.getLogger(__name__)
_CUTS_TOLD = 20

Batch = dict[str, np.ndarray]


def question_ids(
  vocabulary: vocabulary_lib.Vocabulary, question: str, length: int
) -> list[int]:
  """Token ids of the question segment, at most `length`, without padding.

  A longer one loses tokens in the middle of the text: the words
  "question:" and the end with the sentinel are what the reader relies on, so
  the cut is made right after the first, from the left.

  Raises:
    ValueError: the question is empty, or `length` leaves it no room.
  """
  ids = vocabulary.encode(
    prompts.format_question(question, vocabulary.has_sentinels)
  )
  if len(ids) <= length:
    return ids
  frame = vocabulary.encode('question:')
  sentinel = f' {prompts.SENTINEL}' if vocabulary.has_sentinels else ''
  ending = vocabulary.encode(f'answer:{sentinel}')
  if length <= len(frame) + len(ending):
    raise ValueError(
      f'question_length is {length}; the words around a question alone take '
      f'{len(frame) + len(ending)} tokens. Use a length of at least 16.'
    )
  _warn_cut(question, len(ids), length)
  return frame + ids[len(ids) - (length - len(frame)) :]


@functools.lru_cache(maxsize=4096)
def _warn_cut(question: str, found: int, length: int) -> None:
  # Cached: once per question, however often training or timing repeats it.
  # A set of long questions (MMLU's law) is told of by its first ones.
  told = _warn_cut.cache_info().misses
  if told > _CUTS_TOLD:
    return
  _logger.warning(
    'The question %r has %d tokens; its first %d were cut off to fit '
    'question_length=%d.'
    + (' Further ones are cut without a word.' if told == _CUTS_TOLD else ''),
    question,
    found,
    found - length,
    length,
  )


def passage_ids(
  vocabulary: vocabulary_lib.Vocabulary, title: str, text: str, length: int
) -> list[int]:
  """Token ids of the passage segment with eos, cut on the right to fit."""
  ids = vocabulary.encode(prompts.format_passage(title, text))
  return [*ids[: length - 1], vocabulary.eos_id]


def answer_ids(
  vocabulary: vocabulary_lib.Vocabulary, answer: str, length: int
) -> list[int]:
  """Token ids of the target with eos, cut on the right to fit.

  Readers that never saw sentinels (Flan-T5) have a vocabulary without them;
  question and answer then end and begin without one.
  """
  ids = vocabulary.encode(
    prompts.format_answer(answer, vocabulary.has_sentinels)
  )
  return [*ids[: length - 1], vocabulary.eos_id]


def encode_questions(
  vocabulary: vocabulary_lib.Vocabulary, questions: Sequence[str], length: int
) -> Int32[np.ndarray, 'batch length']:
  """Encodes questions, padded on the left.

  Args:
    vocabulary: gives the ids.
    questions: as users ask them.
    length: tokens per question.

  Returns:
    int32 [batch, length]; every row ends with the sentinel.

  Raises:
    ValueError: a question is empty.
  """
  result = np.zeros((len(questions), length), np.int32)
  for row, question in enumerate(questions):
    if not question.strip():
      raise ValueError(
        f'Question {row} of {len(questions)} is empty; expected some text.'
      )
    ids = question_ids(vocabulary, question, length)
    result[row, length - len(ids) :] = ids
  return result


def encode_passages(
  vocabulary: vocabulary_lib.Vocabulary,
  passages: Sequence[tuple[str, str]],
  length: int,
) -> Int32[np.ndarray, 'passages length']:
  """Encodes (title, text) pairs, padded on the right.

  Returns:
    int32 [passages, length]; every row has eos after its last token.
  """
  result = np.zeros((len(passages), length), np.int32)
  texts = [prompts.format_passage(title, text) for title, text in passages]
  for row, ids in enumerate(vocabulary.encode_many(texts)):
    kept = min(len(ids), length - 1)
    result[row, :kept] = ids[:kept]
    result[row, kept] = vocabulary.eos_id
  return result


def encode_answers(
  vocabulary: vocabulary_lib.Vocabulary, answers: Sequence[str], length: int
) -> Int32[np.ndarray, 'batch length']:
  """Encodes answers as targets "<extra_id_0> {answer}" with eos.

  Returns:
    int32 [batch, length], padded on the right.
  """
  result = np.zeros((len(answers), length), np.int32)
  for row, answer in enumerate(answers):
    ids = answer_ids(vocabulary, answer, length)
    result[row, : len(ids)] = ids
  return result


def shift_right(
  targets: Int32[np.ndarray, 'batch length'],
) -> Int32[np.ndarray, 'batch length']:
  """Decoder inputs for given targets: a 0 first, the last token dropped."""
  result = np.zeros_like(targets)
  result[:, 1:] = targets[:, :-1]
  return result


def target_weights(
  targets: Int32[np.ndarray, 'batch length'],
) -> Float32[np.ndarray, 'batch length']:
  """1 where there is a target token, 0 on padding."""
  return (targets != vocabulary_lib.PAD_ID).astype(np.float32)


def make_batch(
  vocabulary: vocabulary_lib.Vocabulary,
  questions: Sequence[str],
  passages: Sequence[Sequence[records.Passage | records.Context]],
  limits: config_lib.InputLimits,
  answers: Sequence[str] | None = None,
) -> Batch:
  """Builds the batch that readers take.

  Args:
    vocabulary: gives the ids.
    questions: one string per row.
    passages: per row its passages, best first; those beyond
      `limits.num_passages` are left out, missing ones are all 0.
    limits: the lengths.
    answers: one string per row to train on or to score; None for inference.

  Returns:
    question_tokens int32 [batch, question_length]; passage_tokens int32
    [batch, passages, passage_length]; with answers also
    decoder_target_tokens and decoder_input_tokens int32 and
    decoder_loss_weights float32, all [batch, answer_length].

  Raises:
    ValueError: the arguments differ in length, or a question is empty.
  """
  given = {'questions': len(questions), 'passages': len(passages)}
  if answers is not None:
    given['answers'] = len(answers)
  if len(set(given.values())) > 1:
    raise ValueError(
      f'Each question needs its own passages and answer, found {given}.'
    )
  passage_tokens = np.zeros(
    (len(questions), limits.num_passages, limits.passage_length), np.int32
  )
  for row, group in enumerate(passages):
    chosen = [(p.title, p.text) for p in group[: limits.num_passages]]
    passage_tokens[row, : len(chosen)] = encode_passages(
      vocabulary, chosen, limits.passage_length
    )
  batch = {
    'question_tokens': encode_questions(
      vocabulary, questions, limits.question_length
    ),
    'passage_tokens': passage_tokens,
  }
  if answers is not None:
    targets = encode_answers(vocabulary, answers, limits.answer_length)
    batch['decoder_target_tokens'] = targets
    batch['decoder_input_tokens'] = shift_right(targets)
    batch['decoder_loss_weights'] = target_weights(targets)
  return batch


def make_record_batch(
  vocabulary: vocabulary_lib.Vocabulary,
  group: Sequence[records.Record],
  limits: config_lib.InputLimits,
) -> Batch:
  """`make_batch` of records with their own passages and first answers."""
  unanswered = [record.id for record in group if not record.answers]
  return make_batch(
    vocabulary,
    [record.question for record in group],
    [record.contexts for record in group],
    limits,
    None if unanswered else [record.answers[0] for record in group],
  )
