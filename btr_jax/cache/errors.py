"""What can be wrong with a cache, as exceptions that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any


class CacheCorruptError(ValueError):
  """A file of the cache is damaged, cut short or missing."""


class CacheIncompleteError(ValueError):
  """The build of the cache has not finished."""


class CacheLockedError(RuntimeError):
  """Another process is writing to the cache."""


class CacheWriteError(OSError):
  """A write failed; what the ledger lists is whole, and a build resumes."""


@dataclasses.dataclass(frozen=True)
class Difference:
  """One field in which a cache is not what the caller expects."""

  field: str
  expected: Any
  found: Any

  def __str__(self) -> str:
    return f'{self.field}: expected {self.expected!r}, found {self.found!r}'


class CacheMismatchError(ValueError):
  """The cache belongs to another model, codec, tokenizer, corpus or plan.

  Attributes:
    differences: every field that differs, with both values.
  """

  def __init__(self, path: object, differences: Sequence[Difference], fix: str):
    self.differences = tuple(differences)
    lines = '\n'.join(f'  {difference}' for difference in differences)
    super().__init__(f'The cache {path} does not fit:\n{lines}\n{fix}')


def find_differences(
  expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ''
) -> list[Difference]:
  """Compares two flat mappings over the fields of `expected`.

  Args:
    expected: what the caller wants; only its fields are compared.
    found: what the cache holds. A field that it lacks counts as None.
    prefix: put before the field's name in the differences.

  Returns:
    The differences, sorted by field; empty when all fields agree.
  """
  return [
    Difference(prefix + field, expected[field], found.get(field))
    for field in sorted(expected)
    if expected[field] != found.get(field)
  ]
