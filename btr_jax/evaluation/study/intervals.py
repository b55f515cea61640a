"""How sure a score is: percentile bootstrap over the questions.

Questions are drawn with replacement. A ratio of two systems draws the same
questions for both, for a question that is hard for one is hard for the other.
"""

from __future__ import annotations

from jaxtyping import Float
import numpy as np

RESAMPLES = 2000
_SEED = 0
_PERCENTILES = (2.5, 97.5)
# Numbers drawn at once: 32 MB of them.
_BLOCK = 1 << 22


def _means(
  values: Float[np.ndarray, 'systems questions'],
) -> Float[np.ndarray, 'systems resamples']:
  """Means of the same resampled questions for all systems."""
  count = values.shape[1]
  generator = np.random.default_rng(_SEED)
  rows = max(1, _BLOCK // count)
  found = []
  for start in range(0, RESAMPLES, rows):
    size = (min(rows, RESAMPLES - start), count)
    found.append(values[:, generator.integers(0, count, size)].mean(axis=-1))
  return np.concatenate(found, axis=1)


def of_mean(values: Float[np.ndarray, 'questions']) -> tuple[float, float]:
  """The interval that holds the mean in 95 of 100 cases.

  Args:
    values: one score per question.

  Returns:
    Its ends.

  Raises:
    ValueError: no question.
  """
  if not len(values):
    raise ValueError('No question was scored; expected at least one.')
  low, high = np.percentile(_means(values[None])[0], _PERCENTILES)
  return float(low), float(high)


def of_ratio(
  values: Float[np.ndarray, 'questions'],
  baseline: Float[np.ndarray, '_'],
) -> tuple[float, float] | None:
  """The interval of mean(values) / mean(baseline), for the same questions.

  Args:
    values: one score per question.
    baseline: of another system, for the same questions.

  Returns:
    Its ends; None where a resample has nothing but zeros to divide by.

  Raises:
    ValueError: other numbers of questions, or none.
  """
  if len(values) != len(baseline) or not len(values):
    raise ValueError(
      f'{len(values)} scores against {len(baseline)}; expected the same '
      'questions for both, at least one.'
    )
  above, below = _means(np.stack([values, baseline]))
  if not below.all():
    return None
  low, high = np.percentile(above / below, _PERCENTILES)
  return float(low), float(high)


def of_seeds(
  values: Float[np.ndarray, 'seeds questions'],
) -> tuple[float, float]:
  """The interval of a mean over training seeds and questions.

  Seeds and questions are both drawn with replacement; few seeds draw an
  interval that is too narrow.

  Args:
    values: the score of each question after training with each seed, or the
      difference of two such scores.

  Returns:
    Its ends.

  Raises:
    ValueError: no seed or no question.
  """
  if not values.size:
    raise ValueError(
      f'The scores have shape {values.shape}; expected at least one seed and '
      'one question.'
    )
  generator = np.random.default_rng(_SEED)
  seeds, questions = values.shape
  means = [
    values[generator.integers(0, seeds, seeds)]
    .mean(axis=0)[generator.integers(0, questions, questions)]
    .mean()
    for _ in range(RESAMPLES)
  ]
  low, high = np.percentile(means, _PERCENTILES)
  return float(low), float(high)
