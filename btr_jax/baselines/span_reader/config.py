"""What a span reader is, and what it reads at most."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from btr_jax import config as config_lib
from btr_jax.retrieval import bert

MODES = ('joint', 'decomposed', 'binary')


@dataclasses.dataclass(frozen=True)
class SpanReaderConfig:
  """Architecture and limits of a span reader.

  Passages begin at the position behind the longest question, whatever the
  question: otherwise their states could not be computed before it is known.

  Attributes:
    bert: the encoder.
    split_layer: k; layers 1 to k run on question and passage apart.
    separator_id: token that ends the question, the title and the passage.
    question_length: tokens of the question, [CLS] and [SEP] among them.
    passage_length: tokens of title and text, two [SEP] among them.
    answer_length: the longest span that is answered, in tokens.
  """

  bert: bert.BertConfig
  split_layer: int
  separator_id: int
  question_length: int = 24
  passage_length: int = 192
  answer_length: int = 16

  def __post_init__(self):
    if not 0 < self.split_layer < self.bert.num_layers:
      raise ValueError(
        f'split_layer is {self.split_layer}; expected 1 to '
        f'{self.bert.num_layers - 1}, so that layers are left on both sides.'
      )
    if self.bert.embed_dim % 8:
      raise ValueError(
        f'embed_dim is {self.bert.embed_dim}; expected a multiple of 8, for '
        'whole bytes.'
      )
    for name, least in (
      ('question_length', 3),
      ('passage_length', 3),
      ('answer_length', 1),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected at least {least}.'
        )
    longest = self.question_length + self.passage_length
    if longest > self.bert.num_positions:
      raise ValueError(
        f'question_length {self.question_length} and passage_length '
        f'{self.passage_length} make {longest} tokens; the encoder has '
        f'{self.bert.num_positions} positions.'
      )

  @property
  def bits_bytes(self) -> int:
    """Bytes of a passage token's bits: one bit per dimension."""
    return self.bert.embed_dim // 8

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> SpanReaderConfig:
    """The inverse of `to_dict`; TypeError or KeyError on foreign fields."""
    encoder = bert.BertConfig(**values['bert'])
    return cls(**(dict(values) | {'bert': encoder}))


def check_mode(mode: str) -> None:
  """Raises ValueError unless it is joint, decomposed or binary."""
  config_lib.check_choice('mode', mode, MODES)
