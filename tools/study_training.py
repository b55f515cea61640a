"""`btr study-training`: variants of training from one reader, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import shlex
import shutil
from typing import Any

import numpy as np

from btr_jax.data import records
from btr_jax.evaluation import environment as environment_lib
from btr_jax.evaluation import report
from btr_jax.models import reader_files
from btr_jax.tools import common

# Of the values, what stands in the table.
_VALUES = {
  'loss': 'loss',
  'distill_loss': 'distance to teacher',
  'read_error': 'error, read',
  'stream_error': 'error, stream',
}


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'study-training',
    'Trains variants of stages 2 and 3 from one reader, each with the same '
    'seeds, batches and steps, and compares their answers to validation '
    'questions: straight-through signs or annealed ones, recovery or none, '
    'wirings of the calibrated codec, tokens that are distilled. Flags '
    '--gin_file and --gin.NAME=VALUE are those of training. What OUTPUT.json '
    'holds is not trained again; OUTPUT.md and OUTPUT.png are written beside.',
    'btr study-training --reader btr_jax/assets/factbook_tiny '
    '--output ablations.json --gin_file=gin_configs/btr_tiny.gin '
    '--gin.TRAIN_STEPS=300',
  )
  add = parser.add_argument
  add(
    '--reader',
    required=True,
    help='what all start from: a family (its joint reader for stage 2, its '
    'decomposed one for stage 3), or a reader directory',
  )
  add('--output', required=True, help='the record, a .json file')
  add(
    '--variants',
    nargs='+',
    metavar='NAME',
    help='which, in quotes; a name without comma takes all that begin with it '
    "and a comma or a space, too ('calibrated', 'distill'); default: all",
  )
  add('--seeds', nargs='+', type=int, default=[0, 1, 2], help='(0 1 2)')
  add(
    '--questions',
    type=common.positive,
    default=500,
    help='of the validation split, at most (500)',
  )
  add('--keep-runs', action='store_true', help='keep the folders of the runs')
  add('--dry-run', action='store_true', help='only tell what would be trained')
  return parser


def chosen_variants(names: Sequence[str] | None) -> list[Any]:
  """The variants of these names.

  Raises:
    UserError: a name that no variant has or begins with.
  """
  from btr_jax.training import study

  known = study.variants()
  if not names:
    return list(known.values())
  chosen: dict[str, Any] = {}
  for name in names:
    found = {
      key: one
      for key, one in known.items()
      if key == name or key.startswith((f'{name},', f'{name} '))
    }
    if not found:
      raise common.UserError(
        f'--variants {name!r}; expected one of, or the beginning of: '
        f'{"; ".join(known)}.'
      )
    chosen |= found
  return [one for key, one in known.items() if key in chosen]


def markdown(record: Mapping[str, Any]) -> str:
  """The rows as a table."""
  rows = record['rows']
  metrics = list(rows[0]['scores'])
  values = [name for name in _VALUES if any(name in r['values'] for r in rows)]
  head = ['variant', 'against', 'seeds']
  for metric in metrics:
    head += [report.title_of(metric), 'difference']
  head += [_VALUES[name] for name in values]

  def cell(found, sign=''):
    if found is None:
      return '-'
    return (
      f'{found["mean"]:{sign}.1f} [{found["low"]:{sign}.1f}, '
      f'{found["high"]:{sign}.1f}]'
    )

  lines = [head, ['---'] * len(head)]
  for row in rows:
    line = [row['variant'], row['against'] or '-', str(len(row['seeds']))]
    for metric in metrics:
      line.append(cell(row['scores'].get(metric)))
      line.append(cell(row['differences'].get(metric), '+'))
    for name in values:
      value = row['values'].get(name)
      line.append('-' if value is None else f'{value:.4g}')
    lines.append(line)
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  return (
    f'{record["questions"]} validation questions at most; in brackets 95 % '
    'intervals, seeds and questions drawn anew; differences to the variant '
    '`against`, on the same seeds and questions.\n\n' + table + '\n'
  )


def plot(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws scores, and differences to what a variant is compared to, as PNG."""
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  rows = record['rows']
  metric = next(iter(rows[0]['scores']))
  places = np.arange(len(rows))
  figure = matplotlib.figure.Figure(
    figsize=(10, 1.6 + 0.36 * len(rows)), layout='constrained'
  )
  left, right = figure.subplots(1, 2, sharey=True)
  stages = sorted({row['stage'] for row in rows})
  for axes, part in ((left, 'scores'), (right, 'differences')):
    for place, row in zip(places, rows, strict=True):
      found = row[part].get(metric)
      if found is None:
        continue
      colour = f'C{stages.index(row["stage"])}'
      axes.plot([found['low'], found['high']], [place] * 2, color=colour, lw=2)
      axes.plot(found['mean'], place, 'o', color=colour)
      seeds = found.get('by_seed', ())
      axes.plot(seeds, [place] * len(seeds), '|', color='black', markersize=7)
    axes.grid(axis='x', alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
  right.axvline(0, color='black', lw=1)
  left.set_yticks(places, [row['variant'] for row in rows])
  left.invert_yaxis()
  title = report.title_of(metric)
  left.set_xlabel(f'{title}, % (right is better; | a seed)')
  right.set_xlabel(f'difference in {title} to what it is compared to')
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=130, format='png')


def _write(record, output):
  text = json.dumps(record, indent=1)
  reader_files.write_atomically(output, text.encode())
  if record['rows']:
    table = markdown(record).encode()
    reader_files.write_atomically(output.with_suffix('.md'), table)
    plot(record, output.with_suffix('.png'))


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  parser = make_parser()
  options, flags = parser.parse_known_args(argv)
  output = pathlib.Path(options.output)
  if output.suffix != '.json':
    raise common.UserError(f'--output is {str(output)!r}; expected *.json.')

  # Imported here: `btr study-training --help` needs neither gin nor JAX.
  from btr_jax import train
  from btr_jax.training import loop, study

  files, bindings, paths = train.parse_flags(flags)
  train.parse_config(files, ["MODEL_DIR = 'unused'", *bindings], paths)
  given = train.build_arguments()
  start_from = pathlib.Path(options.reader)
  chosen = chosen_variants(options.variants)
  results = study.read_results(output)
  done = {(r['variant'], r['seed']): r['fingerprint'] for r in results}
  wanted = []
  for seed in options.seeds:  # All variants of a seed, then the next.
    for variant in chosen:
      arguments = study.training_arguments(variant, given, seed)
      found = study.fingerprint(arguments, start_from, options.questions)
      known = done.get((variant.name, seed))
      if known is None:
        wanted.append((variant, arguments, found))
      elif known != found:
        raise common.UserError(
          f'{output} holds {variant.name!r} with seed {seed}, trained or '
          'evaluated with other settings, from another reader, or on another '
          'number of questions. Name another --output, or take the change back.'
        )
  common.say(
    f'{len(wanted)} of {len(chosen) * len(options.seeds)} runs to train'
  )

  def record():
    return {
      'command': shlex.join(['btr', 'study-training', *argv]),
      'environment': environment_lib.environment(),
      'questions': options.questions,
      'rows': study.summary(results),
      'results': results,
    }

  if options.dry_run:
    for variant, arguments, _ in wanted:
      common.say(f'{variant.name}, seed {arguments["recipe"].seed}')
    return common.EXIT_OK
  output.parent.mkdir(parents=True, exist_ok=True)
  runs = output.with_name(f'{output.stem}_runs')
  with loop.StopSignal() as stop:
    for index, (variant, arguments, found) in enumerate(wanted):
      seed = arguments['recipe'].seed
      common.say(f'{index + 1}/{len(wanted)}: {variant.name}, seed {seed}')
      folder = runs / f'{variant.slug}_seed{seed}'
      result = study.run_one(
        variant, arguments, start_from, folder, options.questions, stop
      )
      if result is None:
        common.say('Stopped early; the same command goes on from there.')
        break
      results.append({**result, 'fingerprint': found})
      _write(record(), output)
      if not options.keep_runs:
        shutil.rmtree(folder)
  if runs.is_dir() and not any(runs.iterdir()):
    runs.rmdir()
  final = record()
  _write(final, output)
  if final['rows']:
    print(markdown(final))
  common.print_json(
    {key: value for key, value in final.items() if key != 'results'}
  )
  return common.EXIT_OK
