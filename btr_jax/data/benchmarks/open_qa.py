"""Questions with short answers: NQ-open, TriviaQA, WebQuestions, SQuAD.

Understood are NQ-open's own JSON Lines, DPR's rows and objects, Atlas's and
KILT's objects, and the JSON documents of TriviaQA, WebQuestions and SQuAD.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re
from typing import Any

from btr_jax.data.benchmarks import rows
from btr_jax.data.records import Record

COLUMNS: Mapping[int, tuple[str, ...]] = {2: ('question', 'answers')}
QUESTION_KEYS = (
  'question',
  'Question',
  'utterance',
  'query',
  'input',
  'qText',
)
ANSWER_KEYS = ('answers', 'answer', 'Answer', 'output')
# WebQuestions: (list (description "A \"b\"") (description C))
_DESCRIPTION = re.compile(
  r'\(description\s+(?:"((?:[^"\\]|\\.)*)"|([^()"]*))\s*\)'
)


def expand(value: Any) -> Iterator[Any] | None:
  """The questions of a document, or None for a value that is one question."""
  if not isinstance(value, dict):
    return None
  for key in ('data', 'Data'):
    if isinstance(value.get(key), list):
      return _questions_of(value[key])
  return None


def _questions_of(items: list[Any]) -> Iterator[Any]:
  for item in items:
    if isinstance(item, dict) and isinstance(item.get('paragraphs'), list):
      for paragraph in item['paragraphs']:
        for question in paragraph.get('qas', []):
          yield {**question, 'article': item.get('title', '')}
    else:
      yield item


def parse(value: Mapping[str, Any], where: str) -> Record:
  """A question; its id is empty where the file has none.

  Raises:
    rows.Unusable: no question or no answer in it.
  """
  del where
  question = rows.take_text(value, QUESTION_KEYS, 'question')
  if value.get('is_impossible'):
    raise rows.Unusable(
      'unanswerable question',
      f'{rows.shortened(question)!r} has no answer (SQuAD 2.0); only '
      'questions with an answer can be scored.',
    )
  answers = list(answers_of(value))
  if not answers:
    raise rows.Unusable(
      'empty answer',
      f'{rows.shortened(question)!r} has no answer; expected at least one in '
      '"answers" or "answer".',
    )
  extra = {'article': value['article']} if value.get('article') else {}
  return Record(
    rows.take_id(value) or '', question, tuple(answers), extra=extra
  )


def answers_of(value: Mapping[str, Any]) -> Iterator[str]:
  """The answers of an object, each once, in order; maybe none."""
  found: list[str] = []
  if isinstance(value.get('targetValue'), str):
    for quoted, plain in _DESCRIPTION.findall(value['targetValue']):
      found.append(re.sub(r'\\(.)', r'\1', quoted) or plain)
  found += rows.strings_in(value.get('target'))  # Atlas: the one to train on
  for key in ANSWER_KEYS:
    if key in value:
      found += rows.strings_in(value[key])
      break
  seen = set()
  for answer in found:
    answer = ' '.join(answer.split())
    if answer and answer not in seen:
      seen.add(answer)
      yield answer
