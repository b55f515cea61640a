"""Questions with answers and passages as batches for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from btr_jax.baselines.language_model import prompt as prompt_lib
from btr_jax.baselines.language_model import reader as reader_lib
from btr_jax.data.records import Record


@dataclasses.dataclass(frozen=True)
class Example:
  """Token ids of a prompt and of the answer behind it."""

  prompt: list[int]
  answer: list[int]


def make(
  reader: reader_lib.LanguageModelReader, record: Record
) -> Example | None:
  """The example of a question, answered by its first answer.

  Args:
    reader: gives prompt, tokenizer, and the longest answer.
    record: a question with passages and answers.

  Returns:
    None if it has no answer, or one that is too long.
  """
  if not record.answers:
    return None
  answer = prompt_lib.answer_ids(
    reader.tokenizer, record.answers[0], reader.prompt.style
  )
  if len(answer) > reader.answer_config.answer_length:
    return None
  passages = [context.passage for context in record.contexts]
  return Example(reader.prompt_ids(record.question, passages), answer)


def batches(
  examples: Sequence[Example],
  *,
  batch_size: int,
  answer_length: int,
  seed: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Shuffled batches for ever, as `fine_tuning.fit` takes them.

  Args:
    examples: at least one.
    batch_size: examples of a batch.
    answer_length: columns that hold answers; the reader's.
    seed: of the order.

  Yields:
    Batches whose length is a multiple of `reader.LENGTH_MULTIPLE`.

  Raises:
    ValueError: no example.
  """
  if not examples:
    raise ValueError(
      'There is no example to learn from; expected questions with passages '
      'and answers that are not too long.'
    )
  generator = np.random.default_rng(seed)
  waiting: list[int] = []
  while True:
    while len(waiting) < batch_size:
      waiting += generator.permutation(len(examples)).tolist()
    chosen = [examples[i] for i in waiting[:batch_size]]
    del waiting[:batch_size]
    rows = [example.prompt + example.answer for example in chosen]
    multiple = reader_lib.LENGTH_MULTIPLE
    length = -(-max(map(len, rows)) // multiple) * multiple
    tokens, mask = reader_lib.padded(rows, batch_size, length)
    sizes = np.array([len(example.answer) for example in chosen])
    columns = np.arange(answer_length)[None, :]
    yield {
      'tokens': tokens,
      'mask': mask,
      'target_mask': columns >= answer_length - sizes[:, None],
    }
