"""The speed figures on an accelerator, the most important first.

A borrowed accelerator comes for minutes, and most of them go into compilation:
so programs are compiled side by side, every group of rows is written as soon as
it is measured, and what there is no time for is named.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import time
from typing import Any

from btr_jax.data import records as records_lib
from btr_jax.evaluation import benchmark_inputs
from btr_jax.tools import benchmark, common

_EXACT = '--modes joint,binary --cross cached,absorbed'
_BINARY = '--modes binary --cross absorbed'
_RATIOS = '--merge 0.05,0.1,0.2,0.3,0.5'
_ENDS = '--modes joint,binary --cross absorbed'


@dataclasses.dataclass(frozen=True)
class Part:
  """A run of `btr benchmark`.

  Attributes:
    name: of its record.
    size: of the reader.
    options: of the command.
    programs: how many it compiles.
  """

  name: str
  size: str
  options: str
  programs: int


# 40 passages of 128 tokens and answers of 8 are issue 6's figures.
PARTS = (
  Part('base', 'base', f'--passages 40 --batch 16 {_EXACT}', 4),
  Part(
    'base_merging',
    'base',
    f'--passages 40 --batch 16 {_BINARY} {_RATIOS} --merge-places intra',
    6,
  ),
  Part('base_batch', 'base', f'--passages 40 --batch 1,4,64 {_ENDS}', 6),
  Part('large', 'large', f'--passages 40 --batch 16 {_EXACT}', 4),
  Part('base_passages', 'base', f'--passages 5,20,100 --batch 16 {_ENDS}', 6),
  Part('large_one', 'large', f'--passages 40 --batch 1 {_ENDS}', 2),
  Part(
    'base_both',
    'base',
    f'--passages 40 --batch 16 {_BINARY} {_RATIOS} --merge-places both',
    6,
  ),
  Part(
    'base_reproject',
    'base',
    '--passages 40 --batch 16 --modes joint,binary --cross reproject',
    2,
  ),
)
# With less than this left, a part would end before its first row.
_LEAST_SECONDS = 20
# Of the budget, for measuring what was compiled last.
_MEASURING_SECONDS = 30


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'benchmark-accelerator',
    'Runs `btr benchmark` for the figures of base and large, in the order of '
    'their importance, and stops in time.',
    'btr benchmark-accelerator results --budget 540',
  )
  add = parser.add_argument
  add('output', help='folder for the records')
  add(
    '--budget',
    type=common.positive,
    default=540,
    help='seconds for everything, from the start of the process (540)',
  )
  add('--repeats', type=common.positive, default=15, help='of each row (15)')
  add(
    '--compile-threads',
    type=common.positive,
    default=max(1, (os.cpu_count() or 1) // 2),
    help='programs compiled at one time (half the cores)',
  )
  add('--parts', help=f'only these of {",".join(p.name for p in PARTS)}')
  add(
    '--tiny',
    action='store_true',
    help='the reader `tiny` in place of all: shows that it runs',
  )
  return parser


def chosen_parts(names: str | None) -> list[Part]:
  """The parts named, in the order of the plan; all without names.

  Raises:
    UserError: a part that is not there.
  """
  if names is None:
    return list(PARTS)
  wanted = [name.strip() for name in names.split(',')]
  known = [part.name for part in PARTS]
  for name in wanted:
    if name not in known:
      raise common.UserError(
        f'--parts names {name!r}; expected some of {", ".join(known)}.'
      )
  return [part for part in PARTS if part.name in wanted]


def _run(
  part: Part,
  left: float,
  folder: pathlib.Path,
  readers: dict[str, benchmark_inputs.Reader],
  options: Any,
) -> dict[str, Any]:
  size = 'tiny' if options.tiny else part.size
  output = folder / f'{part.name}.json'
  arguments = benchmark.make_parser().parse_args(
    [
      *('--size', size, *part.options.split()),
      *('--repeats', str(options.repeats), '--output', str(output)),
      *('--compile-threads', str(options.compile_threads)),
      *('--time-limit', str(max(1, int(left - _MEASURING_SECONDS)))),
    ]
  )
  if size not in readers:
    readers.clear()  # One at a time in memory.
    readers[size] = benchmark.make_reader(arguments)
  begun = time.monotonic()
  record = benchmark.measure(arguments, readers[size])
  record['part'] = dataclasses.asdict(part)
  record['seconds'] = time.monotonic() - begun
  records_lib.write_json(output, record)
  groups = record['groups']
  return {
    'name': part.name,
    'seconds': record['seconds'],
    'rows': sum(len(group['rows']) for group in groups),
    'skipped': sum(len(group['skipped']) for group in groups),
  }


def main(argv: Sequence[str]) -> int:
  """Runs the plan; see `--help`."""
  begun = time.monotonic()
  options = make_parser().parse_args(argv)
  parts = chosen_parts(options.parts)
  folder = pathlib.Path(options.output)
  folder.mkdir(parents=True, exist_ok=True)
  readers: dict[str, benchmark_inputs.Reader] = {}
  found = []
  for part in parts:
    left = options.budget - (time.monotonic() - begun)
    if left < _LEAST_SECONDS + _MEASURING_SECONDS:
      common.say(f'{part.name}: no time is left')
      found.append(
        {'name': part.name, 'seconds': 0, 'rows': 0, 'skipped': part.programs}
      )
      continue
    common.say(f'{part.name}: {left:.0f} s left')
    found.append(_run(part, left, folder, readers, options))
  for row in found:
    common.say(
      f'{row["name"]}: {row["rows"]} rows in {row["seconds"]:.0f} s, '
      f'{row["skipped"]} left out'
    )
  common.print_json({'command': 'benchmark-accelerator', 'parts': found})
  return common.EXIT_OK
