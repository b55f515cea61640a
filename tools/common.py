"""What all sub-commands share: errors, paths, the last line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import logging
import os
import pathlib
import sys
from typing import Any

import rich.console

from btr_jax.cache.errors import CacheLockedError

EXIT_OK = 0
EXIT_USER_ERROR = 2


class UserError(Exception):
  """Something the caller can put right: shown as one message, exit code 2."""


# What this package raises for bad input and bad files, with value and fix.
USER_ERRORS = (
  UserError,
  ValueError,
  OSError,
  CacheLockedError,
  FloatingPointError,  # A training whose loss is not finite.
)


class Parser(argparse.ArgumentParser):
  """An ArgumentParser for one sub-command, with an example in its help."""

  def __init__(self, command: str, description: str, example: str):
    super().__init__(
      prog=f'btr {command}',
      description=description,
      epilog=f'example:\n  {example}',
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def console() -> rich.console.Console:
  """Writes to standard output; 120 columns wide where it is not a terminal."""
  width = None if sys.stdout.isatty() else 120
  return rich.console.Console(width=width, highlight=False)


def print_json(record: Mapping[str, Any]) -> None:
  """Prints the record on one line, the last that a command writes."""
  print(json.dumps(record, ensure_ascii=False), flush=True)


def say(message: str) -> None:
  """Tells on standard error what is going on."""
  print(message, file=sys.stderr, flush=True)


def data_folder() -> pathlib.Path:
  """$BTR_DATA_DIR, or ~/.cache/btr_jax."""
  given = os.environ.get('BTR_DATA_DIR')
  return pathlib.Path(given or '~/.cache/btr_jax').expanduser()


def short_path(path: str | os.PathLike) -> str:
  """A path for a record that travels: an absolute one by its last two parts."""
  path = pathlib.Path(path)
  return str(pathlib.Path(*path.parts[-2:]) if path.is_absolute() else path)


def new_folder(path: str | os.PathLike) -> pathlib.Path:
  """The path of a folder to write.

  Raises:
    UserError: something is there.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise UserError(f'{path} is there already; give a new folder.')
  return path


def positive(text: str) -> int:
  """An argument that counts something: an integer of at least 1."""
  try:
    value = int(text)
  except ValueError:
    value = 0
  if value < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not an integer above 0')
  return value


def integers(text: str) -> list[int]:
  """Comma-separated integers, as in `--seeds 0,1,2`."""
  try:
    values = [int(part) for part in text.split(',') if part.strip()]
  except ValueError:
    values = []
  if not values:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not a list of integers such as 0,1,2'
    )
  return values


def _one_message(error: BaseException) -> str:
  if isinstance(error, OSError) and error.filename is None and error.strerror:
    return f'{type(error).__name__}: {error.strerror}'
  if isinstance(error, KeyError) and error.args:
    return str(error.args[0])  # str(KeyError) puts quotes around it
  return str(error) or type(error).__name__


def fail(error: BaseException) -> int:
  """Prints one message for an error of the caller and gives its exit code."""
  print(f'error: {_one_message(error)}', file=sys.stderr, flush=True)
  return EXIT_USER_ERROR


def run(
  main: Callable[[Sequence[str]], int | None], argv: Sequence[str]
) -> int:
  """Runs a sub-command; errors of the caller become one line, not a trace.

  ValueError and OSError are what this package raises for bad input and bad
  files, with the value and the fix in the message. With BTR_TRACEBACK=1 they
  are let through, for whoever looks for a fault in the package itself.

  Args:
    main: the sub-command.
    argv: its arguments.

  Returns:
    The exit code: 0, or 2 for an error of the caller, 130 when interrupted.
  """
  # What the package warns of is for the caller, in the words of this command.
  logger = logging.getLogger('btr_jax')
  handler = logging.StreamHandler(sys.stderr)
  handler.setLevel(logging.WARNING)
  handler.setFormatter(logging.Formatter('warning: %(message)s'))
  logger.addHandler(handler)
  try:
    return main(argv) or EXIT_OK
  except USER_ERRORS as error:
    if os.environ.get('BTR_TRACEBACK'):
      raise
    return fail(error)
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  finally:
    logger.removeHandler(handler)
