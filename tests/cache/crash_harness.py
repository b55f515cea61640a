"""Kills builders of caches at many instants; all must resume to the same bytes.

A program, not a test (the tests run it for a few instants):

  python tests/cache/crash_harness.py --instants 200 --output record.json

Half of the instants are drawn in time. The others are counted: before and after
every system call by which a cache is written (open, write, fsync, rename,
unlink, mkdir, ...), spread evenly over all of them. Every run is a process of
its own, forked from one that has the imports but has started no thread.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]

import conftest  # noqa: E402
import numpy as np  # noqa: E402

from btr_jax.cache import (  # noqa: E402
  builder,
  copying,
  merging,
  places,
  verify,
)
from btr_jax.cache import manifest as manifests  # noqa: E402
from btr_jax.cache.plan import Share  # noqa: E402

# How a cache gets onto the disk, and off it.
CALLS = (
  'open write pwrite ftruncate fsync replace unlink rmdir mkdir close'
).split()

_ATTEMPTS = 20

LONG = conftest.make_corpus(num_passages=43, seed=3)
SHORT = conftest.Corpus(LONG.tokens[:27])


def build(cache, corpus, do=builder.build, **options):
  return corpus.build(cache, do=do, **options)


class Scenario:
  """One way of writing a cache: what stands before, the step, what after."""

  def __init__(
    self,
    prepare: Callable[[pathlib.Path], None],
    step: Callable[[pathlib.Path], object],
  ):
    self.prepare, self.step = prepare, step


def damaged(folder):
  """A cache with a flipped bit, a lost shard, a bad manifest, a stray file."""
  build(folder / 'cache', SHORT)
  flipped = folder / 'cache/bits/c.1.0'
  content = bytearray(flipped.read_bytes())
  content[7] ^= 4
  flipped.write_bytes(content)
  (folder / 'cache/scale/c.3.0').unlink()
  shutil.copy(folder / 'cache/bits/c.0.0', folder / 'cache/bits/c.9.0')
  (folder / 'cache/manifest.json').write_bytes(b'{"half')


def parts(folder):
  for index in range(3):
    build(folder / f'part{index}', SHORT, share=Share(index, 3))


SCENARIOS = {
  'build': Scenario(
    lambda folder: None, lambda folder: build(folder / 'cache', SHORT)
  ),
  'append': Scenario(
    lambda folder: build(folder / 'cache', SHORT),
    lambda folder: build(folder / 'cache', LONG, builder.append),
  ),
  'repair': Scenario(
    damaged, lambda folder: build(folder / 'cache', SHORT, builder.repair)
  ),
  'merge': Scenario(
    parts,
    lambda folder: merging.merge(
      [places.open_place(folder / f'part{i}') for i in range(3)],
      places.open_place(folder / 'cache'),
    ),
  ),
  'export': Scenario(
    lambda folder: build(folder / 'source', SHORT),
    lambda folder: copying.export(
      places.open_place(folder / 'source'), places.open_place(folder / 'cache')
    ),
  ),
}


def in_child(work: Callable[[], object]) -> int:
  """Starts `work` in a process of its own; returns its id."""
  pid = os.fork()
  if pid:
    return pid
  status = 1
  try:
    work()
    status = 0
  except BaseException as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr, flush=True)
  os._exit(status)


def wait(pid: int) -> int:
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def must(work: Callable[[], object]) -> None:
  status = wait(in_child(work))
  if status:
    raise SystemExit(f'a run that nobody killed ended with {status}')


def count_calls(kill_at: int | None, counts: int | None = None) -> None:
  """Counts instants around the calls; dies at one, or tells the number."""
  seen = [0]

  def instant() -> None:
    seen[0] += 1
    if seen[0] == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)

  def wrapped(call):
    def around(*args, **kwargs):
      instant()
      result = call(*args, **kwargs)
      instant()
      return result

    return around

  for name in CALLS:
    setattr(os, name, wrapped(getattr(os, name)))
  if counts is not None:
    write = os.write.__closure__[0].cell_contents
    return lambda: write(counts, str(seen[0]).encode())
  return None


def number_of_instants(scenario: Scenario, folder: pathlib.Path) -> int:
  reader, writer = os.pipe()

  def work():
    tell = count_calls(None, writer)
    scenario.step(folder)
    tell()

  must(work)
  return int(os.read(reader, 64))


def check_readable(cache: pathlib.Path) -> str:
  """A cache that says it is complete must be so; returns what it says."""
  try:
    status = manifests.read_manifest(cache).status
  except (FileNotFoundError, ValueError):
    return 'absent'
  if status == manifests.COMPLETE:
    problems = [
      problem
      for problem in verify.verify(cache)
      # What a killed writer left aside, or a ledger that was not needed yet.
      if 'does not belong' not in problem.message
      and problem.file != manifests.COPY_NAME
    ]
    if problems:
      raise SystemExit(f'a complete cache is damaged: {problems[0]}')
  return status


def kill(
  scenario: Scenario,
  before: pathlib.Path,
  folder: pathlib.Path,
  moment: int | float,
  chance: random.Random,
) -> None:
  """Leaves in `folder` what a step has done by the moment of its death.

  A step may end before that moment, for it was another run that was timed and
  counted. Then it is done again, and killed earlier: every kill kills.
  """
  for _ in range(_ATTEMPTS):
    shutil.copytree(before, folder)

    def work(m=moment):
      if isinstance(m, int):
        count_calls(m)
      scenario.step(folder)

    pid = in_child(work)
    if isinstance(moment, float):
      time.sleep(moment)
      os.kill(pid, signal.SIGKILL)
    status = wait(pid)
    if status == -signal.SIGKILL:
      return
    if status:
      raise SystemExit(f'a step ended with {status} before {moment}')
    shutil.rmtree(folder)
    if isinstance(moment, int):
      moment = chance.randint(1, moment)
    else:
      moment = chance.uniform(0, moment)
  raise SystemExit(f'a step ended {_ATTEMPTS} times before it was killed')


def run(instants: int, seed: int, temporary: pathlib.Path) -> dict:
  """Kills each scenario at its share of the instants."""
  chance = random.Random(seed)
  weights = {'build': 6, 'append': 1, 'repair': 1, 'merge': 1, 'export': 1}
  record, killed_in_all = {}, 0
  for name, scenario in SCENARIOS.items():
    share = max(2, instants * weights[name] // sum(weights.values()))
    before, sound = temporary / f'{name}_before', temporary / f'{name}_sound'
    before.mkdir()
    must(lambda s=scenario, f=before: s.prepare(f))
    shutil.copytree(before, sound)
    total = number_of_instants(scenario, sound)
    expected = conftest.tree_of(sound / 'cache')
    began = time.monotonic()
    copy = temporary / 'timed'
    shutil.copytree(before, copy)
    must(lambda s=scenario, f=copy: s.step(f))
    seconds = time.monotonic() - began
    shutil.rmtree(copy)
    counted = [round(i) for i in np.linspace(1, total, share - share // 2)]
    timed = [chance.uniform(0, seconds) for _ in range(share // 2)]
    states = collections.Counter()
    for moment in [*counted, *timed]:
      folder = temporary / 'victim'
      kill(scenario, before, folder, moment, chance)
      if name != 'repair':
        states[check_readable(folder / 'cache')] += 1
      must(lambda s=scenario, f=folder: s.step(f))
      if conftest.tree_of(folder / 'cache') != expected:
        raise SystemExit(f'{name}: other bytes after a kill at {moment}')
      shutil.rmtree(folder)
    record[name] = {
      'instants_around_system_calls': total,
      'kills_at_counted_instants': len(counted),
      'kills_at_random_times': len(timed),
      'found_after_kill': dict(states),
      'identical_after_resuming': share,
    }
    killed_in_all += share
  return {'kills': killed_in_all, 'seed': seed, 'scenarios': record}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--instants', type=int, default=200)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path)
  arguments = parser.parse_args()
  began = time.monotonic()
  # In memory where that exists: a killed process loses nothing that it gave
  # to the kernel, so a disk would only be slower.
  memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
  with tempfile.TemporaryDirectory(prefix='btr_', dir=memory) as temporary:
    result = run(arguments.instants, arguments.seed, pathlib.Path(temporary))
  record = {
    'command': f'python tests/cache/crash_harness.py --instants '
    f'{arguments.instants} --seed {arguments.seed}',
    'platform': f'{platform.system()} {platform.machine()}',
    'python': platform.python_version(),
    'seconds': round(time.monotonic() - began, 1),
    **result,
  }
  if arguments.output:
    arguments.output.write_text(json.dumps(record, indent=1) + '\n')
  print(json.dumps(record), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
