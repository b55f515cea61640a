"""Where and with what something was measured, to stand beside the figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

_DISTRIBUTIONS = (
  'btr_jax',
  'jax',
  'jaxlib',
  'flax',
  'numpy',
  'tensorstore',
  'bm25s',
  'faiss-cpu',
)
_THREAD_VARIABLES = (
  'OMP_NUM_THREADS',
  'OPENBLAS_NUM_THREADS',
  'XLA_FLAGS',
  'JAX_PLATFORMS',
)


def cpu_model() -> str:
  """The processor's name, or the machine type where none is told."""
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.lower().startswith('model name'):
        return line.partition(':')[2].strip()
  except OSError:
    pass  # not Linux
  return platform.processor() or platform.machine()


def available_cores() -> int:
  """Cores that this process may use, not those of the whole machine."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def git_commit() -> str | None:
  """Commit of the checkout that btr_jax runs from; `-dirty` if changed.

  Returns:
    None when the package is installed outside a checkout, or without git.
  """
  folder = pathlib.Path(__file__).resolve().parents[2]
  if not (folder / 'setup.cfg').exists():
    return None  # in site-packages: a commit found above would be another's

  def git(*arguments: str) -> str:
    return subprocess.run(
      ('git', '-C', str(folder), *arguments),
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()

  try:
    commit = git('rev-parse', 'HEAD')
    changed = git('status', '--porcelain', '--untracked-files=no')
  except (OSError, subprocess.SubprocessError):
    return None
  return commit + ('-dirty' if changed else '')


def environment() -> dict[str, Any]:
  """Everything that a reader of a figure needs to judge or repeat it.

  Returns:
    A dictionary that JSON can carry.
  """
  versions = {}
  for name in _DISTRIBUTIONS:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None  # run from a folder, not installed
  return {
    'command': ' '.join(
      [os.path.basename(sys.argv[0] or 'python'), *sys.argv[1:]]
    ),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'git_commit': git_commit(),
    'cpu': cpu_model(),
    'cores': available_cores(),
    'load_average': os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
    'devices': sorted({device.device_kind for device in jax.devices()}),
    'platform': f'{platform.system()} {platform.machine()}',
    'python': platform.python_version(),
    'versions': versions,
    'thread_settings': {
      name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ
    },
  }
