"""Several processes as one run: JAX's own runtime, its flags and time-outs.

Every process runs the same program on its own devices. They meet at a
coordinator (process 0), which also notices when one of them dies: the others
then end as well instead of waiting for it in a collective for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils
import numpy as np

from btr_jax.training import partitioning

# T5X's names where it has one. `multiprocess` takes what is not given from
# the cluster's own environment (Cloud TPU, Slurm, Open MPI, Kubernetes).
SWITCHES = ('multiprocess', 'multiprocess_gpu')
FLAGS = (
  'coordinator_address',
  'process_count',
  'process_index',
  'initialization_timeout',
  'heartbeat_timeout',
)
# Whoever is done waits for process 0, which may still write the reader. Long,
# because it is no guard: who dies meanwhile is noticed by the heartbeat.
_SHUTDOWN_TIMEOUT = 3600
_EXAMPLE = (
  '--coordinator_address=10.0.0.1:8476 --process_count=2 --process_index=0'
)


class DistributedError(RuntimeError):
  """The processes did not meet, or one of them is gone."""


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
  """Where the processes meet, and how long they wait for one another.

  Attributes:
    coordinator_address: host:port of process 0; None lets JAX find it out
      from the cluster's environment, as the next two.
    process_count: processes in all.
    process_index: which this one is, from 0.
    initialization_timeout: seconds until all must have come.
    heartbeat_timeout: seconds without a sign of life after which a process
      counts as dead and the others end. A process that only swaps or copies a
      checkpoint still gives signs of life: they come from a thread of its own.
  """

  coordinator_address: str | None = None
  process_count: int | None = None
  process_index: int | None = None
  initialization_timeout: int = 300
  heartbeat_timeout: int = 60

  def __post_init__(self):
    for name in ('initialization_timeout', 'heartbeat_timeout'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'--{name} is {getattr(self, name)}; expected seconds, at least 1.'
        )
    given = {name: getattr(self, name) for name in FLAGS[:3]}
    missing = [f'--{name}' for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
      raise ValueError(
        f'{", ".join(missing)} not given; expected all three, as in {_EXAMPLE},'
        ' or --multiprocess alone where the cluster tells.'
      )
    if missing:
      return
    if ':' not in self.coordinator_address:
      raise ValueError(
        f'--coordinator_address is {self.coordinator_address!r}; expected '
        f'host:port of process 0, as in {_EXAMPLE}.'
      )
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f'--process_index is {self.process_index}; expected 0 to '
        f'{self.process_count - 1} for --process_count={self.process_count}.'
      )


def split_flags(
  argv: Sequence[str],
) -> tuple[DistributedConfig | None, list[str]]:
  """Takes this module's flags out of a command line.

  Args:
    argv: arguments, without the program's name.

  Returns:
    (configuration, or None for a run of one process; the other arguments).

  Raises:
    ValueError: a flag without a value, or with one that is none.
  """
  values, rest, wanted = {}, [], False
  arguments = list(argv)
  while arguments:
    argument = arguments.pop(0)
    name, equals, value = argument.lstrip('-').partition('=')
    if not argument.startswith('--') or name not in (*SWITCHES, *FLAGS):
      rest.append(argument)
      continue
    if name in SWITCHES:
      if value.lower() not in ('', 'true', 'false'):
        raise ValueError(f'{argument}: expected --{name} without a value.')
      wanted = wanted or value.lower() != 'false'
      continue
    if not equals and arguments:
      value = arguments.pop(0)
    if name != 'coordinator_address':
      if not value.isdigit():
        raise ValueError(f'--{name} is {value!r}; expected a whole number.')
      value = int(value)
    elif not value:
      raise ValueError(f'--{name} has no value; expected {_EXAMPLE}.')
    values[name] = value
  if not wanted and not values:
    return None, rest
  config = DistributedConfig(**values)
  if config.coordinator_address is None and not wanted:
    raise ValueError(
      f'{", ".join(f"--{name}" for name in values)} without processes: give '
      f'{_EXAMPLE}, or --multiprocess where the cluster tells.'
    )
  return config, rest


def initialize(config: DistributedConfig | None) -> None:
  """Joins the other processes; does nothing for a run of one process.

  Must come before anything that asks JAX for its devices.

  Args:
    config: of `split_flags`.

  Raises:
    DistributedError: the processes did not meet in time, or there is no
      cluster to find them in.
  """
  if config is None:
    return
  where = config.coordinator_address or "the cluster's own address"
  count = config.process_count or 'all'
  # Before, not after: JAX may end a process that has waited in vain itself.
  print(
    f'Waiting up to {config.initialization_timeout} s for {count} processes to '
    f'meet at {where}. Expected the same command on every host, each with its '
    'own --process_index, and a port of process 0 that all can reach. Slow '
    'hosts: raise --initialization_timeout.',
    file=sys.stderr,
    flush=True,
  )
  try:
    jax.distributed.initialize(
      config.coordinator_address,
      config.process_count,
      config.process_index,
      initialization_timeout=config.initialization_timeout,
      heartbeat_timeout_seconds=config.heartbeat_timeout,
      shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
    )
  except (RuntimeError, ValueError) as error:
    raise DistributedError(
      f'The processes did not meet at {where}: {" ".join(str(error).split())} '
      f'Where no cluster tells JAX the hosts, give {_EXAMPLE}.'
    ) from error


def shutdown() -> None:
  """Leaves the run, after all the others have come to their end as well."""
  jax.distributed.shutdown()


def leave(status: int) -> NoReturn:
  """Ends this process at once, so that the others notice and end as well.

  A normal end waits for them, and they may wait for this one.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def explain(error: BaseException) -> str:
  """The message of an error, and what it may mean among several processes."""
  message = str(error)
  if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
    message = (
      f'process {jax.process_index()} of {jax.process_count()}: {message}\n'
      'Most likely another process has ended: its own output says why. The '
      'same commands go on from the last checkpoint.'
    )
  return message


def alone() -> contextlib.AbstractContextManager[None]:
  """A context in which this process computes on its own devices only.

  With one process that is what it does anyway.
  """
  if jax.process_count() == 1:
    return contextlib.nullcontext()
  return partitioning.mesh_context(
    partitioning.make_mesh((-1, 1), jax.local_devices())
  )


def of_first_process(tree: Any) -> Any:
  """Host arrays of process 0 on all processes, which must all call this."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))


def check_agreement(what: str, value: Any) -> None:
  """Refuses a run whose processes were told different things.

  Args:
    what: the value's name, for the message.
    value: JSON value that must be the same on all processes.

  Raises:
    ValueError: on all processes, unless all gave the same value.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(value, sort_keys=True)
  digest = hashlib.sha256(text.encode()).digest()
  own = np.frombuffer(digest, np.uint32)
  all_of_them = np.asarray(multihost_utils.process_allgather(own))
  others = [
    index
    for index, row in enumerate(all_of_them)
    if not np.array_equal(row, all_of_them[0])
  ]
  if others:
    raise ValueError(
      f'The processes disagree about {what}: {others} of '
      f'{jax.process_count()} differ from process 0; process '
      f'{jax.process_index()} has {text[:500]}. Give all processes the same '
      'command, and folders on storage that they share.'
    )


def check_shared_folder(folder: pathlib.Path, name: str = 'MODEL_DIR') -> None:
  """Refuses a run whose processes write to different disks.

  Args:
    folder: of the run; it exists on each process.
    name: what the user calls it.

  Raises:
    ValueError: on all processes, unless all see what process 0 writes there.
  """
  if jax.process_count() == 1:
    return
  number = np.random.default_rng().integers(2**31, dtype=np.int32)
  number = int(multihost_utils.broadcast_one_to_all(number))
  mark = folder / f'.shared_{number}'
  if jax.process_index() == 0:
    mark.touch()
  multihost_utils.sync_global_devices('mark written')
  seen = np.asarray(multihost_utils.process_allgather(mark.is_file()))
  if jax.process_index() == 0:
    mark.unlink()
  if not seen.all():
    raise ValueError(
      f'{name} is {str(folder)!r}, which is not the same folder on all '
      f'processes: {np.flatnonzero(~seen).tolist()} of {jax.process_count()} '
      'do not see what process 0 writes there. Expected one folder on storage '
      'that all hosts mount (docs/tpu_pods.md).'
    )
