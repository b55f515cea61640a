"""`--merge` and what belongs to it, for every command that reads questions."""

from __future__ import annotations

import argparse
import itertools

from btr_jax import config as config_lib

PLACES = ('intra', 'cross', 'both')


def numbers(text: str) -> list[float]:
  """Comma-separated ratios."""
  try:
    return [float(part) for part in text.split(',') if part.strip()]
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not a list of ratios such as 0.1,0.2'
    ) from None


def words(text: str) -> list[str]:
  """Comma-separated words."""
  return [part.strip() for part in text.split(',') if part.strip()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --merge, --merge-places and --merge-reading."""
  add = parser.add_argument
  add(
    '--merge',
    type=numbers,
    default=[],
    help='ratios of merging, for more rows of mode binary (none)',
  )
  add(
    '--merge-places',
    type=words,
    default=['both'],
    help='intra (in passages), cross (between them), both (both)',
  )
  add('--merge-reading', default='every', help='every or except (every)')


def configs(arguments: argparse.Namespace) -> list[config_lib.MergingConfig]:
  """One for each ratio and place that was asked for.

  Raises:
    ValueError: an unknown place or reading, or a ratio out of range.
  """
  for place in arguments.merge_places:
    config_lib.check_choice('--merge-places', place, PLACES)
  return [
    config_lib.MergingConfig(
      intra_ratio=ratio if place in ('intra', 'both') else 0.0,
      cross_ratio=ratio if place in ('cross', 'both') else 0.0,
      cross_reading=arguments.merge_reading,
    )
    for ratio, place in itertools.product(
      arguments.merge, arguments.merge_places
    )
  ]
