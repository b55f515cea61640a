"""Random numbers inside Python preprocessors: one seed per example."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def generator(seed: Sequence[int] | np.ndarray) -> Callable[[int], int]:
  """A small generator: draw(n) gives an integer in 0..n-1.

  NumPy's generators take longer to start than an example takes to prepare.

  Args:
    seed: two integers, as `seqio.map_over_dataset` gives them.
  """
  state = (int(seed[0]) << 32) ^ (int(seed[1]) & 0xFFFFFFFF)

  def draw(bound: int) -> int:
    nonlocal state
    state = (6364136223846793005 * state + 1442695040888963407) % 2**64
    return (state >> 33) % bound

  draw(1)
  return draw


def shuffled(items: Sequence[Any], draw: Callable[[int], int]) -> list[Any]:
  """The items in another order (Fisher and Yates)."""
  items = list(items)
  for last in range(len(items) - 1, 0, -1):
    other = draw(last + 1)
    items[last], items[other] = items[other], items[last]
  return items
