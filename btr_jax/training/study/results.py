"""Results of a study, and the rows that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np

from btr_jax.evaluation.study import intervals
from btr_jax.training.study import variants


def summary(
  results: list[Mapping[str, Any]], known: Mapping[str, variants.Variant]
) -> list[dict[str, Any]]:
  """A row for each variant that has a result.

  Args:
    results: of `runs`.
    known: variants by name, in the order of the rows; a joint reader's row
      comes first.

  Returns:
    Rows with `variant`, `stage`, `against`, `seeds`, `bytes_per_token`
    (without token ids; None but of stage 3); `scores` as {name: mean, low,
    high, by_seed}; `differences` to the variant it is compared to, for seeds
    and questions that both have; `of_joint`, as `scores` without by_seed, the
    means in per cent of the joint reader's where it answered; `values` as
    means over the seeds.
  """
  found: dict[str, dict[int, Mapping[str, Any]]] = {}
  for result in results:
    found.setdefault(result['variant'], {})[result['seed']] = result
  joint = variants.Variant(variants.JOINT, 1)
  rows = []
  for name, variant in {joint.name: joint, **known}.items():
    if name not in found:
      continue
    own, other = found[name], found.get(variant.against or '', {})

    def of(runs, metric, seeds):
      texts = [runs[seed]['scores'][metric] for seed in seeds]
      return np.array([[float(x) for x in text.split()] for text in texts])

    seeds, both = sorted(own), sorted(set(own) & set(other))
    row: dict[str, Any] = {
      'variant': name,
      'stage': variant.stage,
      'against': variant.against,
      'seeds': seeds,
      'bytes_per_token': own[seeds[0]].get('bytes_per_token'),
      'scores': {},
      'differences': {},
      'of_joint': {},
    }
    for metric in own[seeds[0]]['scores']:
      scores = of(own, metric, seeds)
      row['scores'][metric] = _cell(scores)
      row['scores'][metric]['by_seed'] = scores.mean(axis=1).tolist()
      if both:
        difference = of(own, metric, both) - of(other, metric, both)
        row['differences'][metric] = _cell(difference)
      if joint.name in found and name != joint.name:
        ceiling = of(found[joint.name], metric, [0])[0]
        row['of_joint'][metric] = _share(scores, ceiling)
    row['values'] = {
      value: float(np.mean([own[seed]['values'][value] for seed in seeds]))
      for value in own[seeds[0]]['values']
    }
    rows.append(row)
  return rows


def _cell(scores):
  low, high = intervals.of_seeds(scores)
  return {'mean': float(scores.mean()), 'low': low, 'high': high}


def _share(scores, ceiling):
  # Questions are drawn for both at once; means over the seeds are one system.
  ends = intervals.of_ratio(scores.mean(axis=0), ceiling)
  if ends is None:
    return None
  mean = 100 * float(scores.mean() / ceiling.mean())
  return {'mean': mean, 'low': 100 * ends[0], 'high': 100 * ends[1]}


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The results of a record; none where there is no file.

  Raises:
    ValueError: the file is no record of a study.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  try:
    return list(json.loads(path.read_text(encoding='utf-8'))['results'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no record of a study: {error!r}. Name another --output, or '
      'remove it.'
    ) from error
