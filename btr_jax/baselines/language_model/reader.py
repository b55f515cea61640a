"""A language model that answers questions from passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import decoding, files, parameters
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.baselines.language_model import model as model_lib
from btr_jax.baselines.language_model import prompt as prompt_lib
from btr_jax.baselines.language_model import tokenizer as tokenizer_lib
from btr_jax.data.records import Passage

# Prompts are padded to multiples of this, so that few shapes are compiled.
LENGTH_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
  """How answers are made.

  Attributes:
    answer_length: tokens at most, the one that ends it included.
    batch_size: questions read at once.
  """

  answer_length: int = 20
  batch_size: int = 4

  def __post_init__(self):
    for name in ('answer_length', 'batch_size'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected at least 1.'
        )


DEFAULT_ANSWER = AnswerConfig()


def padded(
  rows: Sequence[Sequence[int]], num_rows: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids padded on the left, and the mask of real tokens.

  Rows beyond those given hold one real token, so that nothing in them is
  undefined.

  Args:
    rows: ids, none longer than `length`.
    num_rows: of the result.
    length: of the result.
  """
  tokens = np.zeros((num_rows, length), np.int32)
  mask = np.zeros((num_rows, length), bool)
  mask[:, -1] = True
  for number, row in enumerate(rows):
    tokens[number, length - len(row) :] = row
    mask[number, length - len(row) :] = True
  return tokens, mask


class LanguageModelReader:
  """Answers greedily; every shape of a batch is compiled once."""

  def __init__(
    self,
    model: files.LoadedModel,
    *,
    prompt: prompt_lib.PromptConfig = prompt_lib.DEFAULT,
    answer: AnswerConfig = DEFAULT_ANSWER,
  ):
    """Takes a model into use.

    Args:
      model: from `files.load_folder` or `files.load_gguf`.
      prompt: passages and style.
      answer: length and batch size.

    Raises:
      ValueError: a vocabulary larger than the model's, or no room for a
        prompt.
    """
    known = model.tokenizer.vocab_size
    if known > model.config.vocab_size:
      raise ValueError(
        f'The tokenizer has {known} tokens and the model '
        f'{model.config.vocab_size}; expected no more. They are of two models.'
      )
    if answer.answer_length >= model.config.max_length:
      raise ValueError(
        f'answer_length is {answer.answer_length}; the model takes '
        f'{model.config.max_length} tokens, prompt included.'
      )
    self._model = model
    self.prompt = dataclasses.replace(
      prompt, style=prompt.style or prompt_lib.style_of(model.tokenizer)
    )
    self.answer_config = answer
    module = model_lib.LanguageModel(model.config)
    ends = np.zeros(model.config.vocab_size, bool)
    ends[list(model.tokenizer.end_ids)] = True
    tables = model.tokenizer.breaks_and_blanks(model.config.vocab_size)
    stops = decoding.Stops(*map(jnp.asarray, (ends, *tables)))
    self._greedy = jax.jit(
      functools.partial(
        decoding.greedy,
        module,
        stops=stops,
        max_length=answer.answer_length,
      )
    )

  @classmethod
  def from_folder(
    cls, path: str | os.PathLike, dtype: str = 'float32', **settings: Any
  ) -> LanguageModelReader:
    """A reader of a Hugging Face folder of the Llama family.

    Args:
      path: folder with config.json, safetensors, tokenizer.json.
      dtype: `float32`, or `bfloat16` for half the memory.
      **settings: `prompt` and `answer`, as in `__init__`.

    Raises:
      ConversionError: a file is missing or does not fit; says which.
    """
    return cls(files.load_folder(path, dtype), **settings)

  @classmethod
  def from_gguf(
    cls, path: str | os.PathLike, dtype: str = 'float32', **settings: Any
  ) -> LanguageModelReader:
    """A reader of a GGUF file; arguments and errors as `from_folder`."""
    return cls(files.load_gguf(path, dtype), **settings)

  @property
  def config(self) -> config_lib.LanguageModelConfig:
    return self._model.config

  @property
  def params(self) -> Any:
    return self._model.params

  @property
  def tokenizer(self) -> tokenizer_lib.Tokenizer:
    return self._model.tokenizer

  @property
  def model_bytes(self) -> int:
    """Bytes of the parameters in memory."""
    return parameters.num_bytes(self._model.params)

  @property
  def stored_bytes(self) -> int:
    """Bytes of the weights on disk."""
    return self._model.stored_bytes

  def with_lora(
    self, updates: Any, lora: config_lib.LoraConfig
  ) -> LanguageModelReader:
    """A reader whose parameters have LoRA's updates merged in."""
    params = lora_lib.merged(self._model.params, updates, lora)
    return LanguageModelReader(
      dataclasses.replace(self._model, params=params),
      prompt=self.prompt,
      answer=self.answer_config,
    )

  def prompt_ids(self, question: str, passages: Sequence[Passage]) -> list[int]:
    """Token ids that the model reads. Errors as `prompt.prompt_ids`."""
    room = self.config.max_length - self.answer_config.answer_length
    return prompt_lib.prompt_ids(
      self.tokenizer, question, passages, self.prompt, room
    )

  def answer(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    progress: Callable[[int, int], None] = lambda done, total: None,
  ) -> list[str]:
    """Answers questions, each from its own passages.

    Prompts are read in order of length, so that little is padding.

    Args:
      questions: any number.
      passages: of each question, best first.
      progress: called with questions done and questions in all.

    Returns:
      One answer per question, in their order.

    Raises:
      ValueError: lists of different lengths, or an empty question.
    """
    if len(questions) != len(passages):
      raise ValueError(
        f'{len(questions)} questions and passages of {len(passages)}; expected '
        'as many of one as of the other.'
      )
    prompts = [
      self.prompt_ids(question, found)
      for question, found in zip(questions, passages, strict=True)
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [''] * len(prompts)
    rows = self.answer_config.batch_size
    for start in range(0, len(order), rows):
      chosen = order[start : start + rows]
      longest = len(prompts[chosen[-1]])
      length = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
      batch = padded([prompts[i] for i in chosen], rows, length)
      tokens, lengths, _ = self._greedy(
        self.params, tokens=batch[0], mask=batch[1]
      )
      tokens, lengths = np.asarray(tokens), np.asarray(lengths)
      for row, i in enumerate(chosen):
        text = self.tokenizer.decode(tokens[row, : lengths[row]].tolist())
        answers[i] = prompt_lib.parse_answer(text)
      progress(start + len(chosen), len(order))
    return answers
