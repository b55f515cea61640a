"""What a build of a corpus takes that is not there yet: time, on many hosts.

A discrete simulation of `builder.build`: every host encodes the shards of its
share one after the other, while a few finished ones are being written; the
writes of a host share its bandwidth. A host that dies loses what the ledger
does not have. All figures that go in are measured or assumed by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

from btr_jax.cache.layout import CacheLayout
from btr_jax.cache.plan import Share

WRITES_IN_FLIGHT = 4


@dataclasses.dataclass(frozen=True)
class Host:
  """One machine.

  Attributes:
    passages_per_second: that its devices encode together.
    bytes_per_second: that it writes.
  """

  passages_per_second: float
  bytes_per_second: float

  def __post_init__(self):
    for name in ('passages_per_second', 'bytes_per_second'):
      if not getattr(self, name) > 0:
        raise ValueError(f'{name} is {getattr(self, name)}; expected above 0.')


@dataclasses.dataclass(frozen=True)
class Death:
  """A host that dies and comes back.

  Attributes:
    host: its number.
    at: seconds after the start.
    back_after: seconds until it, or another in its place, works again. In this
      come noticing, restarting, compiling, and looking through the shards.
    together: whether the processes are one job, which dies and comes back as
      a whole, rather than independent machines.
  """

  host: int
  at: float
  back_after: float
  together: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a simulated build went.

  Attributes:
    seconds: from the start to the last shard in the ledger.
    encoding_seconds: of all hosts together.
    waiting_seconds: that hosts could not encode because writes were behind.
    lost_passages: encoded, but not in the ledger when a host died.
    shards_written: by all hosts.
  """

  seconds: float
  encoding_seconds: float
  waiting_seconds: float
  lost_passages: int
  shards_written: int


@dataclasses.dataclass
class _Run:
  """One host's work from a start to its end or its death."""

  end: float
  done: list[int]
  encoding: float = 0.0
  waiting: float = 0.0
  lost: int = 0


def _run_host(
  host: Host,
  shards: Sequence[int],
  passages: Sequence[int],
  sizes: Sequence[int],
  start: float,
  stop: float,
) -> _Run:
  """Encodes and writes shards in order until done, or until `stop`."""
  run = _Run(start, [])
  clock, writes = start, []
  for shard in shards:
    if clock >= stop:
      break
    seconds = passages[shard] / host.passages_per_second
    encoded = clock + seconds
    run.encoding += min(encoded, stop) - clock
    # As in the builder: with so many writes under way, the oldest is awaited.
    clock = encoded
    if len(writes) >= WRITES_IN_FLIGHT:
      clock = max(encoded, writes[-WRITES_IN_FLIGHT])
    run.waiting += min(clock, stop) - min(encoded, stop)
    begin = max(clock, writes[-1]) if writes else clock
    written = begin + sizes[shard] / host.bytes_per_second
    writes.append(written)
    if written <= stop:
      run.done.append(shard)
      run.end = written
    else:
      part = (min(encoded, stop) - (encoded - seconds)) / seconds
      run.lost += int(passages[shard] * part)
  return run


def simulate(
  passages: Sequence[int],
  sizes: Sequence[int],
  hosts: Sequence[Host],
  *,
  start: float = 0.0,
  death: Death | None = None,
) -> Outcome:
  """Simulates a build.

  Args:
    passages: of each shard.
    sizes: bytes of each shard.
    hosts: share i of len(hosts) is built by host i.
    start: seconds before the first passage is encoded (reading the corpus,
      compiling); spent again by a host that dies within them.
    death: of one host.

  Returns:
    The outcome.

  Raises:
    ValueError: no hosts, or the host that dies is none of them.
  """
  if not hosts:
    raise ValueError('There are no hosts; expected at least one.')
  if death and not 0 <= death.host < len(hosts):
    raise ValueError(
      f'Host {death.host} is to die; expected 0 to {len(hosts) - 1}.'
    )
  runs = []
  for number, host in enumerate(hosts):
    shards = list(Share(number, len(hosts)).shards(len(passages)))
    dies = death and (death.together or death.host == number)
    first = _run_host(
      host, shards, passages, sizes, start, death.at if dies else math.inf
    )
    runs.append(first)
    left = shards[len(first.done) :]
    if left:
      # What the start made is kept, if it was made.
      begin = start if death.at < start else 0.0
      again = death.at + death.back_after + begin
      runs.append(_run_host(host, left, passages, sizes, again, math.inf))
  return Outcome(
    seconds=max(run.end for run in runs),
    encoding_seconds=sum(run.encoding for run in runs),
    waiting_seconds=sum(run.waiting for run in runs),
    lost_passages=sum(run.lost for run in runs),
    shards_written=sum(len(run.done) for run in runs),
  )


def shard_sizes(
  layout: CacheLayout, tokens_per_passage: float
) -> tuple[list[int], list[int]]:
  """Passages and bytes of every shard, were all passages of one length."""
  passages, sizes = [], []
  for shard in range(layout.num_shards):
    first, last = layout.passage_range(shard)
    rows = round((last - first) * tokens_per_passage)
    passages.append(last - first)
    sizes.append(
      sum(
        array.file_bytes(layout.rows_of(array, shard, rows))
        for array in layout.arrays
      )
    )
  return passages, sizes
