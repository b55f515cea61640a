"""Runs the trainer many times for the price of one import.

A program, not a test: it reads requests from standard input, one JSON object
per line,

  {"argv": [...], "devices": 2, "output": "file"}

forks before JAX has started anything, runs `btr_jax.train.main(argv)` in the
child, and writes `pid <pid>` at once and `exit <pid> <status>` when the child
is gone (a negative status is the signal that killed it). Each child is a
process of its own, as `python -m btr_jax.train` would be.
"""

from __future__ import annotations

import json
import os
import select
import sys

import jax

from btr_jax import train


def child(request: dict) -> int:
  """What the forked process does."""
  output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  null = os.open(os.devnull, os.O_RDONLY)
  for source, target in ((null, 0), (output, 1), (output, 2)):
    os.dup2(source, target)
  jax.config.update('jax_num_cpu_devices', request['devices'])
  return train.main(request['argv'])


def main() -> int:
  """Serves until standard input ends."""
  buffered, running = b'', set()
  while True:
    ready, _, _ = select.select([0], [], [], 0.01)
    if ready:
      data = os.read(0, 1 << 16)
      if not data:
        return 0
      buffered += data
    while b'\n' in buffered:
      line, buffered = buffered.split(b'\n', 1)
      pid = os.fork()
      if pid == 0:
        return child(json.loads(line))
      running.add(pid)
      print('pid', pid, flush=True)
    for pid in sorted(running):
      done, status = os.waitpid(pid, os.WNOHANG)
      if done:
        running.remove(pid)
        print('exit', pid, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == '__main__':
  sys.exit(main())
