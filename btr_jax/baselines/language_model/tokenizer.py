"""Text to token ids and back, by the package tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import importlib
import pathlib
from typing import Any

from jaxtyping import Bool
import numpy as np

from btr_jax.baselines.language_model import json_files
from btr_jax.interop.checkpoint import ConversionError

TOKENIZER_FILE = 'tokenizer.json'


@dataclasses.dataclass(frozen=True)
class Special:
  """A token that text cannot spell, such as a turn's beginning."""

  name: str


def import_tokenizers() -> Any:
  """The package tokenizers.

  Raises:
    ValueError: it is not installed; says how to.
  """
  try:
    return importlib.import_module('tokenizers')
  except ImportError as error:
    raise ValueError(
      "A language model's text needs the package 'tokenizers': "
      "pip install 'btr_jax[retrieval]'."
    ) from error


class Tokenizer:
  """A tokenizer with what a prompt and an answer need to know of it."""

  def __init__(
    self,
    inner: Any,
    *,
    prefix: Sequence[int],
    end_ids: Sequence[int],
    chat_template: str = '',
  ):
    """Wraps a tokenizer.

    Args:
      inner: `tokenizers.Tokenizer`; its truncation and padding are put off.
      prefix: ids that every prompt begins with (the beginning of text).
      end_ids: ids that end an answer.
      chat_template: as published; empty for a model that takes plain text.
    """
    inner.no_padding()
    inner.no_truncation()
    # A passage may spell a special token; it must stay text.
    inner.encode_special_tokens = True
    self._inner = inner
    self.prefix = tuple(prefix)
    self.end_ids = tuple(end_ids)
    self.chat_template = chat_template

  @classmethod
  def from_folder(cls, folder: pathlib.Path) -> Tokenizer:
    """Reads tokenizer.json and the settings beside it.

    Raises:
      ConversionError: no readable tokenizer, or no token that ends a text.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
      raise ConversionError(
        f'{folder} has no {TOKENIZER_FILE}; transformers writes one '
        '(AutoTokenizer.from_pretrained(...).save_pretrained(...)).'
      )
    try:
      inner = import_tokenizers().Tokenizer.from_file(str(path))
    except Exception as error:  # The package raises no class of its own.
      if isinstance(error, ValueError):
        raise
      raise ConversionError(f'Cannot read {path}: {error}.') from error
    settings = json_files.read_if_there(folder / 'tokenizer_config.json')
    end_ids: list[int] = []
    for name in ('generation_config.json', 'config.json'):
      values = json_files.read_if_there(folder / name)
      given = values.get('eos_token_id')
      given = given if isinstance(given, list) else [given]
      end_ids += [i for i in given if i is not None]
    end = settings.get('eos_token')
    end = end.get('content') if isinstance(end, dict) else end
    if end is not None and inner.token_to_id(end) is not None:
      end_ids.append(inner.token_to_id(end))
    if not end_ids:
      raise ConversionError(
        f'{folder} names no eos_token_id; expected one in config.json.'
      )
    begins = [
      i
      for i in inner.encode('', add_special_tokens=True).ids
      if i not in end_ids
    ]
    template = folder / 'chat_template.jinja'
    chat = settings.get('chat_template') or ''
    if template.is_file():
      chat = template.read_text(encoding='utf-8')
    return cls(
      inner,
      prefix=begins,
      end_ids=list(dict.fromkeys(end_ids)),
      chat_template=chat if isinstance(chat, str) else str(chat),
    )

  @property
  def vocab_size(self) -> int:
    """Token ids that it may give."""
    return self._inner.get_vocab_size(with_added_tokens=True)

  def has(self, special: Special) -> bool:
    """Whether it knows the token."""
    return self._inner.token_to_id(special.name) is not None

  def encode(self, parts: Sequence[str | Special]) -> list[int]:
    """Token ids of text and special tokens, without the prefix.

    Raises:
      ValueError: it has no such special token.
    """
    ids: list[int] = []
    for part in parts:
      if isinstance(part, Special):
        token = self._inner.token_to_id(part.name)
        if token is None:
          raise ValueError(
            f'The tokenizer has no token {part.name!r}; choose another style '
            'of prompt, such as plain.'
          )
        ids.append(token)
      elif part:
        ids += self._inner.encode(part, add_special_tokens=False).ids
    return ids

  def cut(self, text: str, length: int) -> str:
    """The beginning of a text that has at most `length` tokens."""
    encoded = self._inner.encode(text, add_special_tokens=False)
    if len(encoded.ids) <= length:
      return text
    return text[: encoded.offsets[length][0]]

  def decode(self, ids: Sequence[int]) -> str:
    """Text of token ids; special tokens are left out."""
    return self._inner.decode(list(ids), skip_special_tokens=True)

  def breaks_and_blanks(
    self, vocab_size: int
  ) -> tuple[Bool[np.ndarray, 'vocab'], Bool[np.ndarray, 'vocab']]:
    """Which tokens hold a line break, and which hold no visible text.

    Args:
      vocab_size: of the model, which may have more tokens than text uses.
    """
    breaks = np.zeros(vocab_size, bool)
    blank = np.zeros(vocab_size, bool)
    known = range(min(vocab_size, self.vocab_size))
    texts = self._inner.decode_batch([[i] for i in known])
    breaks[: len(known)] = ['\n' in text for text in texts]
    blank[: len(known)] = [not text.strip() for text in texts]
    return breaks, blank
