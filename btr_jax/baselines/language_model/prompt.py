"""What a language model reads: instruction, passages, question."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from btr_jax import config as config_lib
from btr_jax.baselines.language_model import tokenizer as tokenizer_lib
from btr_jax.baselines.language_model.tokenizer import Special
from btr_jax.data.records import Passage

STYLES = ('plain', 'chatml', 'llama3')
INSTRUCTION = (
  'Answer the question from the passages. Write only the answer, a name, a '
  'number or a few words, and nothing else.'
)


@dataclasses.dataclass(frozen=True)
class PromptConfig:
  """How passages and question become a prompt.

  Attributes:
    num_passages: read at most; the paper's language model reads five.
    passage_length: tokens of a passage; the rest is cut off.
    style: `plain` text, or the turns of a chat (`chatml`, `llama3`); None
      takes the one that the model's chat template shows.
    instruction: stands first.
  """

  num_passages: int = 5
  passage_length: int = 192
  style: str | None = None
  instruction: str = INSTRUCTION

  def __post_init__(self):
    for name in ('num_passages', 'passage_length'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected at least 1.'
        )
    if self.style is not None:
      config_lib.check_choice('style', self.style, STYLES)


DEFAULT = PromptConfig()


def style_of(tokenizer: tokenizer_lib.Tokenizer) -> str:
  """The style that a model was tuned to, by its chat template."""
  if '<|im_start|>' in tokenizer.chat_template:
    return 'chatml'
  if '<|start_header_id|>' in tokenizer.chat_template:
    return 'llama3'
  return 'plain'


def _body(question: str, passages: Sequence[tuple[str, str]]) -> str:
  lines = [
    f'Passage {number}{f" ({title})" if title else ""}: {text}'
    for number, (title, text) in enumerate(passages, start=1)
  ]
  return '\n\n'.join([*lines, f'Question: {question}'])


def _parts(
  style: str, instruction: str, body: str
) -> tuple[str | Special, ...]:
  if style == 'chatml':
    start, end = Special('<|im_start|>'), Special('<|im_end|>')
    return (
      *(start, f'system\n{instruction}', end, '\n'),
      *(start, f'user\n{body}', end, '\n'),
      *(start, 'assistant\n'),
    )
  if style == 'llama3':
    start, end = Special('<|start_header_id|>'), Special('<|end_header_id|>')
    turn = Special('<|eot_id|>')
    return (
      *(start, 'system', end, f'\n\n{instruction}', turn),
      *(start, 'user', end, f'\n\n{body}', turn),
      *(start, 'assistant', end, '\n\n'),
    )
  # No blank at the end: tokenizers put it before the word that follows.
  return (f'{instruction}\n\n{body}\nAnswer:',)


def prompt_ids(
  tokenizer: tokenizer_lib.Tokenizer,
  question: str,
  passages: Sequence[Passage],
  config: PromptConfig,
  max_length: int,
) -> list[int]:
  """Token ids of a prompt.

  Args:
    tokenizer: of the model.
    question: as a user asks it.
    passages: best first; those beyond `num_passages` are not read.
    config: style and limits.
    max_length: tokens of the prompt at most; the last passages are left out
      until it fits.

  Returns:
    Ids, the beginning of text included.

  Raises:
    ValueError: the question is empty, or too long by itself.
  """
  question = ' '.join(question.split())
  if not question:
    raise ValueError('The question is empty; expected some text.')
  style = config.style or style_of(tokenizer)
  read = [
    (
      ' '.join(passage.title.split()),
      tokenizer.cut(' '.join(passage.text.split()), config.passage_length),
    )
    for passage in passages[: config.num_passages]
  ]
  while True:
    body = _body(question, read)
    parts = _parts(style, config.instruction, body)
    ids = [*tokenizer.prefix, *tokenizer.encode(parts)]
    if len(ids) <= max_length:
      return ids
    if not read:
      raise ValueError(
        f'The question {question[:80]!r} makes a prompt of {len(ids)} tokens '
        f'without any passage; expected at most {max_length}.'
      )
    read.pop()


def answer_ids(
  tokenizer: tokenizer_lib.Tokenizer, answer: str, style: str
) -> list[int]:
  """Token ids of an answer behind its prompt, with the token that ends it."""
  answer = ' '.join(answer.split())
  text = f' {answer}' if style == 'plain' else answer
  return [*tokenizer.encode([text]), tokenizer.end_ids[0]]


def parse_answer(text: str) -> str:
  """The answer in what the model wrote: its first line, without a full stop."""
  lines = text.strip().splitlines()
  answer = lines[0].strip() if lines else ''
  return answer.removesuffix('.') if answer.count('.') == 1 else answer
