"""One benchmark as rows, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import numpy as np
import rich.table

from btr_jax.data import records
from btr_jax.evaluation import benchmark, benchmark_inputs, cost
from btr_jax.evaluation.throughput import Spread

BASELINES = ('joint cached', 'joint absorbed', 'torch joint')


def group(
  workload: benchmark_inputs.Workload,
  runners: Mapping[str, benchmark.Runner],
  times: Mapping[str, benchmark.Times],
  roofline: cost.Roofline,
  margins: bool = False,
) -> dict[str, Any]:
  """Everything about the systems of one workload.

  Args:
    workload: what was read.
    runners: by name.
    times: by name, from `take_turns`.
    roofline: the rates to compare with.
    margins: also the smallest margin of each mode without merging.

  Returns:
    A record that JSON can carry: the workload and one row per system.
  """
  rows = []
  for name, runner in runners.items():
    found = times[name]
    per_question = [s / workload.batch for s in found.wall]
    row = {
      'name': name,
      'seconds_per_question': benchmark.summary(per_question),
      'questions_per_second': 1 / benchmark.summary(per_question)['median'],
      'cpu_seconds_per_question': benchmark.summary(
        [s / workload.batch for s in found.processor]
      ),
      'look_up_seconds_per_question': benchmark.summary(
        [s / workload.batch for s in found.look_up]
      ),
      'compile_seconds': runner.compile_seconds,
      'speedup': _speedups(times, name),
      'same_tokens_as': _same_tokens(runners, times, name),
      'distinct_answers': len(
        {row.tobytes() for tokens in found.tokens for row in tokens}
      ),
    }
    system = getattr(runner, 'system', None)
    if system is not None:
      read = benchmark.summary(
        [a - b for a, b in zip(found.wall, found.look_up, strict=True)]
      )['median']
      row |= dataclasses.asdict(system) | runner.cost()
      least = roofline.seconds(row['flops'], row['bytes'])
      row['roofline_share'] = least / read
      # The first of a kind stands for the others, which answer the same.
      first = not any(_kind(runners[r['name']]) == _kind(runner) for r in rows)
      unmerged = system.merging == benchmark.System.merging
      if margins and first and unmerged:
        row['smallest_margin'] = runner.smallest_margin(
          found.last_batch, found.tokens[-1]
        )
    rows.append(row)
  return {'workload': dataclasses.asdict(workload), 'rows': rows}


def _speedups(
  times: Mapping[str, benchmark.Times], name: str
) -> dict[str, dict[str, Any]]:
  """Over each baseline that is there, repeat by repeat, in both clocks."""
  found = {}
  for baseline in BASELINES:
    if baseline not in times:
      continue
    found[baseline] = {
      clock: Spread.of(
        [
          theirs / ours
          for theirs, ours in zip(
            getattr(times[baseline], clock),
            getattr(times[name], clock),
            strict=True,
          )
        ]
      ).to_dict()
      for clock in ('wall', 'processor')
    }
  return found


def _kind(runner: benchmark.Runner) -> tuple[Any, ...]:
  """Systems of one kind claim the same answers; torch is a joint reader."""
  system = getattr(runner, 'system', None)
  if system is None:
    return ('joint', benchmark.System.merging, False)
  return (system.mode, system.merging, system.int8_products)


def _same_tokens(
  runners: Mapping[str, benchmark.Runner],
  times: Mapping[str, benchmark.Times],
  name: str,
) -> dict[str, float]:
  """Share of equal answers, for each system that claims the same."""
  own = np.concatenate(times[name].tokens)
  return {
    other: float(
      np.mean(np.all(own == np.concatenate(times[other].tokens), axis=1))
    )
    for other in runners
    if other != name and _kind(runners[other]) == _kind(runners[name])
  }


def table(found: Mapping[str, Any]) -> rich.table.Table:
  """A group as people read it."""
  workload = found['workload']
  result = rich.table.Table(
    title=(
      f'{workload["passages"]} passages x {workload["passage_length"]} tokens '
      f'(padded to {workload["padded_length"]}), batch {workload["batch"]}, '
      f'answers of {workload["answer_length"]}'
    ),
    caption='seconds per question: median (95th percentile)',
  )
  result.add_column('system')
  for title in (
    'seconds',
    'CPU-s',
    'speed-up',
    'look-up ms',
    'GFLOP',
    'GB',
    'roofline',
    'peak GB',
    'compile s',
    'same',
  ):
    result.add_column(title, justify='right')
  questions = workload['batch']
  for row in found['rows']:
    seconds = row['seconds_per_question']
    faster = row['speedup'].get(BASELINES[0])
    same = row['same_tokens_as'].values()
    counted = 'flops' in row
    result.add_row(
      row['name'],
      f'{seconds["median"]:.4g} ({seconds["p95"]:.4g})',
      f'{row["cpu_seconds_per_question"]["median"]:.4g}',
      f'{faster["wall"]["median"]:.2f}x' if faster else '-',
      f'{1000 * row["look_up_seconds_per_question"]["median"]:.2f}',
      f'{row["flops"] / questions / 1e9:.4g}' if counted else '-',
      f'{row["bytes"] / questions / 1e9:.3g}' if counted else '-',
      f'{100 * row["roofline_share"]:.0f} %' if counted else '-',
      f'{row["peak_bytes"] / 1e9:.3g}' if counted else '-',
      f'{row["compile_seconds"]:.1f}',
      f'{100 * min(same):.0f} %' if same else '-',
    )
  return result


def plot(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws seconds per question over passages and over batch, as a PNG.

  Args:
    record: from `btr benchmark`.
    path: the file to write.
  """
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(10.5, 4.2), layout='constrained')
  left, right = figure.subplots(1, 2)
  groups = record['groups']
  longest = max(g['workload']['padded_length'] for g in groups)
  groups = [g for g in groups if g['workload']['padded_length'] == longest]
  _lines(left, groups, 'passages', 'batch')
  _lines(right, groups, 'batch', 'passages')
  handles, labels = left.get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncol=3, fontsize=8)
  figure.suptitle(
    f'{record["size"]}, {", ".join(record["environment"]["devices"])}, '
    f'{record["config"]["dtype"]}',
    fontsize=10,
  )
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=150, format='png')


def _lines(axes: Any, groups: Any, swept: str, fixed: str) -> None:
  """Milliseconds per question over one quantity, the other at its least."""
  least = min(g['workload'][fixed] for g in groups)
  chosen = [g for g in groups if g['workload'][fixed] == least]
  chosen.sort(key=lambda g: g['workload'][swept])
  # A row that there was no time for is missing from its group.
  names = dict.fromkeys(row['name'] for g in chosen for row in g['rows'])
  for number, name in enumerate(names):
    found = [
      (g['workload'][swept], row['seconds_per_question']['median'])
      for g in chosen
      for row in g['rows']
      if row['name'] == name
    ]
    axes.plot(
      [value for value, _ in found],
      [1000 * seconds for _, seconds in found],
      marker='os^DvPX*'[number % 8],
      color=f'C{number % 10}',
      label=name,
    )
  axes.set_xlabel(f'{swept} ({fixed} {least})')
  axes.set_ylabel('ms per question (down is better)')
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
