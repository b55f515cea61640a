"""Questions with passages that hold their answers, from public files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import os
from typing import Any

from btr_jax.data import problems
from btr_jax.data.benchmarks import contexts, files, open_qa, rows
from btr_jax.data.records import Context, Record


def read(path: str | os.PathLike, num_passages: int = 1) -> list[Record]:
  """Reads questions with passages.

  Understood are SQuAD's JSON (one paragraph per question), lines with
  `context` and perhaps `title` (Natural Questions' gold paragraphs), and
  lines with `ctxs` or `passages` (DPR, FiD, Atlas; `btr prepare-questions`,
  `btr retrieve`). What has no answer or no passage is left out and told of.

  Args:
    path: .json or .jsonl, maybe .gz or .xz.
    num_passages: of every question, at most.

  Returns:
    Records; an article of SQuAD stands in `extra['article']`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: no question in it can be used.
  """
  found = problems.Problems(os.fspath(path))
  result = []
  for number, (place, value) in enumerate(_values(path, found)):
    try:
      result.append(_record(value, str(number), place, num_passages))
    except rows.Unusable as error:
      found.leave_out(error.kind, place, error.message)
  if not result:
    raise ValueError(
      f'{path} holds no question with answers and a passage; expected '
      "SQuAD's JSON, or JSON Lines with question, answers and context or ctxs."
    )
  return result


def _values(path, found) -> Iterator[tuple[str, Any]]:
  for place, value in files.iterate_values(path, found):
    articles = value.get('data') if isinstance(value, dict) else None
    if not isinstance(articles, list):
      yield place, value
      continue
    for article in articles:
      title = str(article.get('title', ''))
      for paragraph in article.get('paragraphs', []):
        for question in paragraph.get('qas', []):
          yield (
            f'question {question.get("id")}',
            {
              **question,
              'article': title,
              'title': title.replace('_', ' '),
              'context': paragraph.get('context'),
            },
          )


def _record(value: Any, number: str, place: str, num_passages: int) -> Record:
  if not isinstance(value, Mapping):
    raise rows.Unusable(
      'no object', f'{rows.shortened(repr(value))}; expected an object.'
    )
  record = open_qa.parse(value, place)
  identifier = record.id or number
  if contexts.holds_passages(value):
    passages = contexts.contexts_of(value, identifier, num_passages, None)
  else:
    text = value.get('context')
    if not isinstance(text, str) or not text.strip():
      raise rows.Unusable(
        'no passage', f'{place} has neither context nor ctxs.'
      )
    passages = (
      Context(
        identifier,
        ' '.join(str(value.get('title') or '').split()),
        ' '.join(text.split()),
      ),
    )
  if not passages:
    raise rows.Unusable('no passage', f'{place} has an empty list of them.')
  return Record(
    identifier,
    record.question,
    _by_votes(value, record.answers),
    tuple(passages),
    record.extra,
  )


def _by_votes(
  value: Mapping[str, Any], answers: Sequence[str]
) -> tuple[str, ...]:
  """The answers; where several people gave some, the most frequent first."""
  listed = value.get('answers')
  votes = list(rows.strings_in(listed)) if isinstance(listed, list) else []
  return tuple(sorted(answers, key=lambda answer: -votes.count(answer)))


def by_article(
  records: Sequence[Record], count: int
) -> tuple[list[Record], list[Record]]:
  """Questions of the first `count` articles by name, and those of the others.

  So that no paragraph, nor another one on its subject, is in both.
  """
  names = sorted({record.extra.get('article', '') for record in records})
  chosen = set(names[:count])
  if not 0 < count < len(names):
    raise ValueError(
      f'{count} of {len(names)} articles were asked for; expected 1 to '
      f'{len(names) - 1}, so that both parts hold some.'
    )
  inside = [r for r in records if r.extra.get('article', '') in chosen]
  outside = [r for r in records if r.extra.get('article', '') not in chosen]
  return inside, outside
