"""Lets one gin file serve our trainer and T5X's train, eval and infer.

Importing this module (`runs/program.gin` does) teaches gin the include
`gin_configs/runs/<program>.gin`: it is read from the run file of the program
that is parsing, found beside it. Gin itself has no conditions, and a run file
of T5X cannot be parsed where T5X is not running.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import IO

import gin

INCLUDE = '<program>.gin'
# Module that runs as the main program -> its run file; anything else (our
# trainer, a tool, a test) gets the trainer that comes with the package.
RUN_FILES = {
  't5x.train': 't5x/train.gin',
  't5x.eval': 't5x/eval.gin',
  't5x.infer': 't5x/infer.gin',
}
OWN_RUN_FILE = 'own/train.gin'


def program() -> str:
  """Dotted name of the main module; 't5x.train' for `python -m t5x.train`."""
  main = sys.modules['__main__']
  spec = getattr(main, '__spec__', None)
  if spec is not None:  # python -m
    return spec.name
  parts = pathlib.Path(getattr(main, '__file__', None) or '').parts[-2:]
  return '.'.join(parts).removesuffix('.py')


def run_file(path: str) -> str:
  """The file that stands for `path`, an include that ends in `<program>.gin`.

  Args:
    path: `.../runs/<program>.gin`.

  Returns:
    `.../runs/t5x/train.gin` while `t5x.train` runs, and so on.
  """
  folder = os.path.dirname(path)
  return os.path.join(folder, RUN_FILES.get(program(), OWN_RUN_FILE))


def _is_readable(path: str) -> bool:
  return os.path.basename(path) == INCLUDE and os.path.isfile(run_file(path))


def _open(path: str) -> IO[str]:
  return open(run_file(path), encoding='utf-8')


# In front: gin's other readers log an error for each file that is not theirs.
gin.config._FILE_READERS.insert(0, (_open, _is_readable))
