"""FEVER: claims with one of three labels, in Atlas's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from btr_jax.data.benchmarks import rows
from btr_jax.data.records import Record

COLUMNS: Mapping[int, tuple[str, ...]] = {
  2: ('claim', 'label'),
  3: ('id', 'claim', 'label'),
}
# Label -> what the reader says.
WORDS = {'SUPPORTS': 'true', 'REFUTES': 'false', 'NOT ENOUGH INFO': 'maybe'}
_OTHER_NAMES = {
  'SUPPORTED': 'SUPPORTS',
  'REFUTED': 'REFUTES',
  'NOT_ENOUGH_INFO': 'NOT ENOUGH INFO',
  'NEI': 'NOT ENOUGH INFO',
  **{word.upper(): label for label, word in WORDS.items()},
}


def parse(value: Mapping[str, Any], where: str) -> Record:
  """A claim as a question whose answer is true, false or maybe.

  Raises:
    rows.Unusable: no claim, or an unknown label.
  """
  del where
  claim = rows.take_text(value, ('claim', 'input', 'question'), 'claim')
  found = next(
    rows.strings_in(
      value.get('label', value.get('output', value.get('answers')))
    ),
    None,
  )
  if found is None or not found.strip():
    raise rows.Unusable(
      'no label',
      f'the claim {rows.shortened(claim)!r} has no label; expected "label" '
      f'with one of {", ".join(WORDS)}.',
    )
  label = ' '.join(found.upper().split())
  label = _OTHER_NAMES.get(label, label)
  if label not in WORDS:
    raise rows.Unusable(
      'unknown label',
      f'the label is {found!r}; expected one of {", ".join(WORDS)}.',
    )
  return Record(
    rows.take_id(value) or '', claim, (WORDS[label],), extra={'label': label}
  )
