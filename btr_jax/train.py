"""Trains a reader: the entry point, and the only module that knows gin.

  python -m btr_jax.train --gin_file=gin_configs/btr_tiny.gin \\
    --gin.STAGE=1 --gin.MODEL_DIR="'runs/tiny'"

Flags are T5X's: --gin_file (repeatable; later files win), --gin.NAME=VALUE for
a macro or a binding, --gin_search_paths (comma-separated, default '.').

Several hosts run the same command, on Cloud TPU with --multiprocess, elsewhere
with --coordinator_address=HOST:PORT --process_count=N --process_index=I
(docs/tpu_pods.md).
"""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import importlib.util  # noqa: F401  (gin 0.5 uses it without importing it.)
import pathlib
import re
import sys
from typing import Any

from absl import flags, logging
import gin

from btr_jax.training import distributed, runner

_MACRO = re.compile(r'^([A-Za-z_]\w*) = ', re.MULTILINE)
_REQUIRED = re.compile(r'^([A-Za-z_][\w./]*) = %gin\.REQUIRED$', re.MULTILINE)
_MACRO_USE = re.compile(r'%([A-Za-z_][\w./]*)')


class ConfigError(ValueError):
  """A gin file, flag or binding that cannot be used."""


def parse_flags(
  argv: Sequence[str],
) -> tuple[list[str], list[str], list[str]]:
  """Splits the command line into gin files, bindings and search paths.

  Args:
    argv: arguments, without the program's name.

  Returns:
    (gin files, bindings, search paths).

  Raises:
    ConfigError: an argument that is none of the three, or no gin file.
  """
  files, bindings, paths = [], [], ['.']
  arguments = list(argv)
  while arguments:
    argument = arguments.pop(0)
    name, equals, value = argument.lstrip('-').partition('=')
    if not argument.startswith('-'):
      raise ConfigError(
        f'Unexpected argument {argument!r}; expected --gin_file=FILE, '
        '--gin.NAME=VALUE or --gin_search_paths=FOLDERS.'
      )
    if not equals and arguments and not arguments[0].startswith('-'):
      value = arguments.pop(0)
    elif not equals:
      raise ConfigError(
        f'Flag {argument} has no value; write {argument}=VALUE.'
      )
    if name == 'gin_file':
      files.append(value)
    elif name == 'gin_search_paths':
      paths = [path for path in value.split(',') if path]
    elif name.startswith('gin.'):
      bindings.append(f'{name.removeprefix("gin.")} = {value}')
    else:
      close = difflib.get_close_matches(
        name, ['gin_file', 'gin_search_paths'], 1
      )
      hint = f' Did you mean --{close[0]}?' if close else ''
      raise ConfigError(
        f'Unknown flag --{name}; expected --gin_file, --gin.NAME or '
        f'--gin_search_paths.{hint}'
      )
  if not files:
    raise ConfigError(
      'No --gin_file; for a first run: --gin_file=gin_configs/btr_tiny.gin.'
    )
  return files, bindings, paths


def _check_macros() -> None:
  """Refuses macros that nothing reads: most are misspelt."""
  text = gin.config_str()
  used = {name.split('/')[-1] for name in _MACRO_USE.findall(text)}
  for name in sorted(set(_MACRO.findall(text)) - used):
    close = difflib.get_close_matches(name, sorted(used), 1)
    hint = f' Did you mean {close[0]}?' if close else ''
    raise ConfigError(
      f'Nothing reads the gin macro {name}.{hint} Known: '
      f'{", ".join(sorted(used))}.'
    )


def _check_required() -> None:
  """Refuses a configuration that leaves a required value open."""
  text = gin.config_str()
  used = {name for name in _MACRO_USE.findall(text) if '.' not in name}
  missing = sorted(used - set(_MACRO.findall(text))) + _REQUIRED.findall(text)
  if missing:
    raise ConfigError(
      f'The gin configuration is incomplete: {", ".join(missing)} without a '
      'value. Set it in a gin file, or by a flag: '
      f'--gin.{missing[0]}=VALUE.'
    )


def parse_config(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = ('.',),
) -> None:
  """Parses gin files and bindings into gin's global configuration.

  Args:
    files: gin files, later ones win; found in the search paths, beside the
      installed package, or by their own path.
    bindings: `NAME = VALUE` lines that win over the files.
    search_paths: where files and their includes are looked for.

  Raises:
    ConfigError: an unknown file, binding or macro, or a value gin cannot read.
  """
  gin.clear_config()
  # Includes say 'gin_configs/...': they resolve in the current folder, beside
  # the repository's btr_jax, or in the installed package (btr_jax/gin_configs).
  package = pathlib.Path(__file__).resolve().parent
  folders = [*search_paths, str(package.parent), str(package)]
  for folder in folders:
    if folder not in gin.config._LOCATION_PREFIXES:
      gin.add_config_file_search_path(folder)
  for file in files:
    if not any((pathlib.Path(folder) / file).is_file() for folder in folders):
      raise ConfigError(
        f'No gin file {file!r} in {", ".join(folders)}. Check the name, or '
        'add its folder by --gin_search_paths.'
      )
  for step, (given_files, given_bindings) in (
    ('gin files', (list(files), [])),
    ('flags', ([], list(bindings))),
  ):
    try:
      gin.parse_config_files_and_bindings(
        given_files, given_bindings, finalize_config=False
      )
    except Exception as error:  # gin raises a dozen kinds.
      raise ConfigError(
        f'Cannot use the {step} {given_files or given_bindings}: '
        f'{_last_line(error)}\nExpected existing files that bind what '
        'btr_jax.training.runner.train and its arguments take; strings need '
        'quotes inside quotes: --gin.MODEL_DIR="\'runs/tiny\'".'
      ) from error
  _check_macros()
  _check_required()
  try:
    gin.finalize()
  except Exception as error:
    raise ConfigError(f'The gin configuration is incomplete: {error}') from (
      error
    )


def _last_line(error: BaseException) -> str:
  return ' '.join(str(error).split())


def build_arguments(*names: str) -> dict[str, Any]:
  """Values that the parsed configuration binds to `runner.train`.

  Args:
    *names: parameters of `runner.train`; all that are bound by default.

  Returns:
    Their values, references evaluated.
  """
  bound = gin.get_bindings(gin.get_configurable(runner.train))
  chosen = names or tuple(bound)
  return {name: bound[name] for name in chosen}


def _reader_provenance(argv: Sequence[str]) -> dict[str, Any]:
  import jax

  return {
    'command': ' '.join(['python -m btr_jax.train', *argv]),
    'jax': jax.__version__,
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the flags and trains; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if {'-h', '--help', '--helpshort'} & set(argv):
    print(__doc__)
    return 0
  if not flags.FLAGS.is_parsed():  # absl logs to stderr until they are.
    flags.FLAGS.mark_as_parsed()
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  # Orbax tells twenty lines per checkpoint; its warnings stay.
  logging.get_absl_handler().addFilter(
    lambda record: record.levelno > 20 or '/orbax/' not in record.pathname
  )
  try:
    processes, rest = distributed.split_flags(argv)
    parse_config(*parse_flags(rest))
    distributed.initialize(processes)
  except (ValueError, distributed.DistributedError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  train = gin.get_configurable(runner.train)
  try:
    finished = train(
      operative_config=gin.config_str(), provenance=_reader_provenance(argv)
    )
    if processes is not None:
      distributed.shutdown()
  except (ValueError, RuntimeError) as error:
    # gin appends the call it was in, which says nothing to a user.
    message = distributed.explain(error)
    message = message.split('\n  In call to configurable')[0]
    print(f'error: {message}', file=sys.stderr)
    if processes is not None:
      distributed.leave(1)
    return 1
  if not finished:
    print(
      'Stopped early; the same command goes on from there.', file=sys.stderr
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())
