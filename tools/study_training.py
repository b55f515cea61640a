"""`btr study-training`: variants of training from one reader, compared."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import pathlib
import shlex
import shutil
from typing import Any

from btr_jax.evaluation import environment as environment_lib
from btr_jax.models import reader_files
from btr_jax.tools import common, study_pages

# Some run diverged; the others are there.
_EXIT_DIVERGED = 1


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'study-training',
    'Trains variants of stages 2 and 3 from one reader, each with the same '
    'seeds, batches and steps, and compares their answers to validation '
    'questions: straight-through signs or annealed ones, recovery or none, '
    'wirings of the calibrated codec, tokens that are distilled; with --codes '
    'settings of the codecs, by their bytes. Flags --gin_file and '
    '--gin.NAME=VALUE are those of training. What OUTPUT.json holds is not '
    'trained again; OUTPUT.md and OUTPUT.png are written beside.',
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
    "and a comma or a space, too ('calibrated', 'distill'); default: all, or "
    'none with --codes',
  )
  add(
    '--codes',
    nargs='+',
    metavar='NAME',
    default=[],
    help='stage 3 through these settings of the codecs, named as by `btr '
    "study-codes` ('float', 'residual, 64 bits, window 1')",
  )
  add(
    '--joint',
    help='reader directory or family whose joint reader answers too, untrained',
  )
  add('--seeds', nargs='+', type=int, default=[0, 1, 2], help='(0 1 2)')
  add(
    '--questions',
    type=common.positive,
    default=500,
    help='to answer, at most (500)',
  )
  add('--split', default='validation', help='of the questions (validation)')
  add(
    '--every',
    type=common.positive,
    default=1,
    help='13 answers every thirteenth question of the split (1)',
  )
  add(
    '--passages',
    type=common.positive,
    help='to read per question (as many as in training)',
  )
  add(
    '--passage-length',
    type=common.positive,
    help="tokens of a passage when answering (training's)",
  )
  add('--keep-runs', action='store_true', help='keep the folders of the runs')
  add('--dry-run', action='store_true', help='only tell what would be trained')
  return parser


def chosen_variants(
  names: Sequence[str] | None, codes: Sequence[str], embed_dim: int
) -> list[Any]:
  """The variants of these names, then those of these codes.

  Args:
    names: of variants, or their beginnings; None takes all of them, but none
      where there are codes.
    codes: names of settings.
    embed_dim: of the reader.

  Raises:
    UserError: a name that no variant has or begins with.
    ValueError: a name that no setting has.
  """
  from btr_jax.training.study import variants

  known = variants.variants()
  if names is None and not codes:
    return list(known.values())
  chosen: dict[str, Any] = {}
  for name in names or ():
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
  of_codes = variants.code_variants(embed_dim, codes)
  return [one for key, one in known.items() if key in chosen] + list(
    of_codes.values()
  )


class _Record:
  """The record of a study, written after every result.

  Attributes:
    results: those it holds.
  """

  def __init__(self, output: pathlib.Path, known, fields):
    from btr_jax.training.study import results

    self._summary, self._known = results.summary, known
    self._output, self._fields = output, fields
    self.results = results.read_results(output)
    if self.results:
      shared = json.loads(output.read_text()).get('shared', fields['shared'])
      self._check(shared == fields['shared'])

  def _check(self, same: bool, what: str = 'results') -> None:
    if not same:
      raise common.UserError(
        f'{self._output} holds {what}, trained or evaluated with other '
        'settings, from another reader, or on other questions. Name another '
        '--output, or take the change back.'
      )

  def lacks(self, name: str, seed: int, fingerprint: str) -> bool:
    """Whether this is still to be found out.

    Raises:
      UserError: the record has it of other settings.
    """
    for result in self.results:
      if (result['variant'], result['seed']) == (name, seed):
        same = result['fingerprint'] == fingerprint
        self._check(same, f'{name!r} with seed {seed}')
        return False
    return True

  def write(self, result=None, fingerprint: str = '') -> dict[str, Any]:
    """Writes record, table and picture, with one more result if given."""
    if result is not None:
      self.results.append({**result, 'fingerprint': fingerprint})
    found = {
      **self._fields,
      'environment': environment_lib.environment(),
      'rows': self._summary(self.results, self._known),
      'results': self.results,
    }
    output = self._output
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    reader_files.write_atomically(output, text.encode())
    if found['rows']:
      table = study_pages.markdown(found).encode()
      reader_files.write_atomically(output.with_suffix('.md'), table)
      study_pages.plot(found, output.with_suffix('.png'))
    return found


def _train(wanted, record, output, start_from, questions, options) -> int:
  """Runs what is wanted, one after another; how many diverged."""
  from btr_jax.training import loop
  from btr_jax.training.study import runs

  folders = output.with_name(f'{output.stem}_runs')
  diverged = 0
  try:
    with loop.StopSignal() as stop:
      for index, (variant, arguments, found) in enumerate(wanted):
        name = f'{variant.name}, seed {arguments["recipe"].seed}'
        common.say(f'{index + 1}/{len(wanted)}: {name}')
        # By its settings: a run of others is not gone on with.
        slug = f'{variant.slug}_seed{arguments["recipe"].seed}_{found[:8]}'
        try:
          result = runs.run_one(
            variant, arguments, start_from, folders / slug, questions, stop
          )
        except FloatingPointError as error:
          common.say(f'{name}: {error}')
          diverged += 1
          continue
        if result is None:
          common.say('Stopped early; the same command goes on from there.')
          break
        record.write(result, found)
        if not options.keep_runs:
          shutil.rmtree(folders / slug)
  finally:
    # Empty ones only: the others hold what a run goes on from.
    for path in (*folders.glob('*'), folders):
      with contextlib.suppress(OSError):
        path.rmdir()
  return diverged


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  parser = make_parser()
  options, flags = parser.parse_known_args(argv)
  output = pathlib.Path(options.output)
  if output.suffix != '.json':
    raise common.UserError(f'--output is {str(output)!r}; expected *.json.')

  # Imported here: `btr study-training --help` needs neither gin nor JAX.
  from btr_jax import train
  from btr_jax.training.study import answers, runs, variants

  files, bindings, paths = train.parse_flags(flags)
  train.parse_config(files, ["MODEL_DIR = 'unused'", *bindings], paths)
  given = train.build_arguments()
  data, start_from = given['data'], pathlib.Path(options.reader)
  embed_dim = given['reader'].embed_dim
  chosen = chosen_variants(options.variants, options.codes, embed_dim)
  questions = answers.Questions(
    options.questions,
    options.split,
    options.every,
    options.passages,
    options.passage_length,
  )
  known = variants.variants() | variants.code_variants(embed_dim)
  record = _Record(
    output,
    known,
    {
      'command': shlex.join(['btr', 'study-training', *argv]),
      'questions': options.questions,
      'answered': dataclasses.asdict(questions),
      'shared': variants.shared_fingerprint(given, start_from, questions),
    },
  )
  wanted = []
  for seed in options.seeds:  # All variants of a seed, then the next.
    for variant in chosen:
      arguments = variants.training_arguments(variant, given, seed)
      found = variants.fingerprint(arguments, start_from, questions)
      if record.lacks(variant.name, seed, found):
        wanted.append((variant, arguments, found))
  joint = None
  if options.joint:
    path = pathlib.Path(options.joint)
    found = variants.joint_fingerprint(given, path, questions)
    if record.lacks(variants.JOINT, 0, found):
      joint = path, found
  common.say(
    f'{len(wanted)} of {len(chosen) * len(options.seeds)} runs to train'
  )
  if options.dry_run:
    for variant, arguments, _ in wanted:
      common.say(f'{variant.name}, seed {arguments["recipe"].seed}')
    return common.EXIT_OK

  batch_size, limits = given['recipe'].batch_size, given['limits']
  # Now, not after hours of training.
  answers.check(data, questions)
  next(questions.batches(data, questions.limits(limits), batch_size), None)
  if joint:
    path, found = joint
    common.say(f'the joint reader {path} answers')
    record.write(runs.ask_joint(path, given, questions), found)
  diverged = _train(wanted, record, output, start_from, questions, options)
  final = record.write()
  if final['rows']:
    print(study_pages.markdown(final))
  common.print_json(
    {key: value for key, value in final.items() if key != 'results'}
  )
  return _EXIT_DIVERGED if diverged else common.EXIT_OK
