"""Passages of a question, as DPR, FiD, Atlas and KILT write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from btr_jax.data.benchmarks import rows
from btr_jax.data.records import Context, Passage

# Where the retrieved passages stand: DPR and FiD, Atlas.
LIST_KEYS = ('ctxs', 'passages', 'contexts')
_ID_KEYS = ('id', 'passage_id', 'psg_id', 'docid', 'wikipedia_id')
_JUDGEMENT_KEYS = ('has_answer', 'hasanswer')

FindPassage = Callable[[str], Passage | None]


def holds_passages(value: Mapping[str, Any]) -> bool:
  """Whether an object has a list of passages, possibly an empty one."""
  return any(isinstance(value.get(key), list) for key in LIST_KEYS)


def passage_of(value: Mapping[str, Any], identifier: str) -> Passage:
  """A passage out of an object with its text.

  Atlas keeps the section of an article by itself, KILT the text as a list of
  paragraphs.

  Raises:
    rows.Unusable: it has no text.
  """
  title = str(value.get('title') or value.get('wikipedia_title') or '')
  section = value.get('section')
  if isinstance(section, str) and section.strip():
    title = f'{title}: {section}'
  text = value.get('text', value.get('contents'))
  if isinstance(text, list):
    text = ' '.join(str(part) for part in text)
  if not isinstance(text, str) or not text.strip():
    raise rows.Unusable(
      'passage without text',
      f'the passage {identifier!r} has the text {text!r}; expected some text.',
    )
  return Passage(identifier, ' '.join(title.split()), ' '.join(text.split()))


def identifier_of(value: Mapping[str, Any]) -> str | None:
  """The id of a passage, where it has one."""
  for key in _ID_KEYS:
    found = value.get(key)
    if isinstance(found, (str, int)) and not isinstance(found, bool):
      return str(found)
  return None


def contexts_of(
  value: Mapping[str, Any],
  name: str,
  limit: int,
  find: FindPassage | None = None,
) -> tuple[Context, ...]:
  """The first passages of a question.

  Args:
    value: an object with one of LIST_KEYS.
    name: of the question, for passages that have no id.
    limit: how many at most.
    find: looks up passages that are named by their id only.

  Raises:
    rows.Unusable: a passage without text that cannot be looked up either.
  """
  key = next(key for key in LIST_KEYS if isinstance(value.get(key), list))
  result = []
  for rank, item in enumerate(value[key][:limit]):
    if not isinstance(item, Mapping):
      raise rows.Unusable(
        'passage is no object',
        f'{key}[{rank}] is {item!r}; expected an object.',
      )
    identifier = identifier_of(item)
    if 'text' in item or 'contents' in item:
      passage = passage_of(item, identifier or f'{name}-{rank}')
    else:
      passage = look_up(identifier, find)
    result.append(
      Context(
        passage.id,
        passage.title,
        passage.text,
        _score(item.get('score')),
        _judgement(item),
      )
    )
  return tuple(result)


def look_up(identifier: str | None, find: FindPassage | None) -> Passage:
  """The passage of an id.

  Raises:
    rows.Unusable: there is no corpus, or it has no such passage.
  """
  found = find(identifier) if find and identifier is not None else None
  if found is None:
    raise rows.Unusable(
      'unknown passage',
      f'the passage {identifier!r} has no text and '
      + ('the corpus does not hold it.' if find else 'no corpus was given.'),
    )
  return found


def references_of(value: Mapping[str, Any], limit: int) -> list[str]:
  """Ids of passages that would have to be looked up."""
  result = []
  for key in LIST_KEYS:
    items = value.get(key)
    if isinstance(items, list):
      result += [
        identifier_of(item)
        for item in items[:limit]
        if isinstance(item, Mapping)
        and 'text' not in item
        and 'contents' not in item
      ]
  return [identifier for identifier in result if identifier is not None]


def _score(found: Any) -> float:
  try:
    return float(found)
  except (TypeError, ValueError):
    return 0.0


def _judgement(item: Mapping[str, Any]) -> bool | None:
  for key in _JUDGEMENT_KEYS:
    if isinstance(item.get(key), (bool, int)):
      return bool(item[key])
  return None
