"""Seconds and memory of opening and of compressing a cache.

Each is measured in a process of its own, for its resident memory.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

_OPEN = """
import json, resource, sys, time
import numpy as np
from btr_jax.cache.store import CacheStore

def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * resource.getpagesize()

path, length = sys.argv[1], int(sys.argv[2])
before = resident()
start = time.perf_counter()
store = CacheStore.open(path)
seconds = time.perf_counter() - start
opened = resident()
random = np.random.default_rng(0)
first, repeated = [], []
for seconds_of in (first, repeated):
  random = np.random.default_rng(0)
  for _ in range(100):
    passages = random.integers(0, store.num_passages, 40)
    start = time.perf_counter()
    store.lookup(passages, length)
    seconds_of.append(time.perf_counter() - start)
print(json.dumps({
  'open_seconds': seconds,
  'resident_before_bytes': before,
  'resident_open_bytes': opened,
  'resident_after_lookups_bytes': resident(),
  'lookups': len(first),
  'first_touch_lookup_ms': 1e3 * float(np.median(first)),
  'repeated_lookup_ms': 1e3 * float(np.median(repeated)),
}))
"""
_COMPRESS = """
import json, sys, time
import numpy as np
from btr_jax.cache import compression

def peak():
  # Not ru_maxrss: that begins with what the parent had resident.
  with open('/proc/self/status') as file:
    line = next(line for line in file if line.startswith('VmHWM'))
  return 1024 * int(line.split()[1])

source, destination, ratio, block, stop = sys.argv[1:]
settings = compression.Settings(float(ratio), int(block))
start, cpu = time.perf_counter(), time.process_time()
manifest = compression.compress(
  source, destination, settings, np.array(json.loads(stop), np.int64)
)
print(json.dumps({
  'seconds': time.perf_counter() - start,
  'cpu_seconds': time.process_time() - cpu,
  'peak_resident_bytes': peak(),
  'tokens': dict(manifest.counts),
}))
"""


def _run(program: str, *arguments: object) -> dict[str, Any]:
  result = subprocess.run(
    [sys.executable, '-c', program, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )
  if result.returncode:
    raise OSError(f'The measured process failed:\n{result.stderr[-2000:]}')
  return json.loads(result.stdout.splitlines()[-1])


def opening(path: pathlib.Path, length: int) -> dict[str, Any]:
  """Opens a cache and looks 4,000 random passages up, twice.

  Args:
    path: an uncompressed cache.
    length: of its longest passage.

  Returns:
    Seconds, resident bytes before and after opening and after the look-ups,
    and milliseconds of a look-up of 40 passages.

  Raises:
    OSError: the process failed; with what it said.
  """
  return _run(_OPEN, path, length)


def compressing(
  source: pathlib.Path,
  destination: pathlib.Path,
  ratio: float,
  block_size: int,
  stop_ids: list[int],
) -> dict[str, Any]:
  """Compresses a cache.

  Returns:
    Seconds, seconds of processor time (of all threads), peak resident bytes,
    and how many tokens became what.

  Raises:
    OSError: as in `opening`.
  """
  return _run(
    _COMPRESS, source, destination, ratio, block_size, json.dumps(stop_ids)
  )
