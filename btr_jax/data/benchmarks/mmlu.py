"""MMLU: four choices; CSV by subject, or objects."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from btr_jax.data import prompts
from btr_jax.data.benchmarks import mmlu_subjects, rows
from btr_jax.data.records import Record

COLUMNS: Mapping[int, tuple[str, ...]] = {
  6: ('question', 'A', 'B', 'C', 'D', 'answer'),
}
LETTERS = prompts.LETTERS
# abstract_algebra_test.csv
_FILE_NAME = re.compile(r'^(.+?)_(dev|val|test)$')


def subject_of_file(path: str) -> str:
  """The subject that a CSV file's name tells, or 'auxiliary' for the others.

  The training files are made of other sources (arc_easy.csv, race.csv).
  """
  found = _FILE_NAME.match(pathlib.Path(path).name.split('.')[0])
  return found.group(1) if found else mmlu_subjects.AUXILIARY


def render(question: str, choices: list[str], answer: str) -> dict[str, Any]:
  """Question and answer of a Record, for one order of the choices."""
  return {
    'question': prompts.format_choices(question, choices),
    'answers': (answer,),
  }


def parse(value: Mapping[str, Any], where: str) -> Record:
  """A question with its options behind it, and a letter as the answer.

  Args:
    value: an object, or a row by the names of COLUMNS.
    where: the file, whose name may tell the subject.

  Raises:
    rows.Unusable: not four choices, no letter, or an unknown subject.
  """
  question = rows.take_text(value, ('question',), 'question')
  choices = _choices(value)
  letter = _letter(value, question)
  subject = str(value.get('subject') or subject_of_file(where))
  subject = subject.strip().lower().replace(' ', '_')
  if subject not in mmlu_subjects.GROUPS and (
    subject != mmlu_subjects.AUXILIARY
  ):
    raise rows.Unusable(
      'unknown subject',
      f'the subject is {subject!r}; expected one of the 57 of MMLU, such as '
      '"abstract_algebra", or none in training files.',
    )
  return Record(
    rows.take_id(value) or '',
    extra={'subject': subject, 'stem': question, 'choices': choices},
    **render(question, choices, letter),
  )


def _choices(value: Mapping[str, Any]) -> list[str]:
  found = value.get('choices', value.get('options'))
  if found is None and all(letter in value for letter in LETTERS):
    found = value
  if isinstance(found, Mapping):
    found = [found.get(letter) for letter in LETTERS]
  if not isinstance(found, list) or len(found) != len(LETTERS):
    raise rows.Unusable(
      'not four choices', f'the choices are {found!r}; expected four.'
    )
  choices = [' '.join(str(choice).split()) for choice in found]
  if not all(choices) or None in found:
    raise rows.Unusable(
      'empty choice', f'the choices are {found!r}; expected four texts.'
    )
  return choices


def _letter(value: Mapping[str, Any], question: str) -> str:
  for key in ('answer', 'answers', 'target', 'correct_option', 'label'):
    if key in value:
      found = value[key]
      break
  else:
    found = None
  if isinstance(found, list) and len(found) == 1:
    found = found[0]
  if isinstance(found, int) and not isinstance(found, bool):
    if 0 <= found < len(LETTERS):
      return LETTERS[found]
  if isinstance(found, str):
    text = found.strip().upper()
    if text in tuple(LETTERS):
      return text
    if text in tuple('0123'):
      return LETTERS[int(text)]
  kind = 'empty answer' if found in (None, '') else 'unknown label'
  raise rows.Unusable(
    kind,
    f'the answer to {rows.shortened(question)!r} is {found!r}; expected A, B, '
    'C or D, or 0 to 3.',
  )
