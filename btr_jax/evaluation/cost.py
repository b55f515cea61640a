"""What a program costs by its compiler's count, and what a device could do.

XLA counts the body of a loop once, however often it runs, so the steps of the
decoder beyond the first are counted apart and added.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

# Rates for the roofline by device and type: operations and bytes per second.
# H200: what large bf16 matrix products and copies reach in practice; the data
# sheet says 989e12 and 4.8e12.
KNOWN_RATES = {('NVIDIA H200', 'bfloat16'): (790e12, 4.3e12)}
_PROBE_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The rates that a device is measured against.

  Attributes:
    flops_per_second: of matrix products.
    bytes_per_second: of memory.
    source: where the two come from.
  """

  flops_per_second: float
  bytes_per_second: float
  source: str

  def seconds(self, flops: float, transferred: float) -> float:
    """The least time that so many operations and bytes could take."""
    return max(
      flops / self.flops_per_second, transferred / self.bytes_per_second
    )

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def _best_seconds(function, *arguments, repeats: int = 5) -> float:
  jax.block_until_ready(function(*arguments))
  best = math.inf
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    best = min(best, time.perf_counter() - start)
  return best


def roofline(dtype: str) -> Roofline:
  """The rates of this machine's first device: known, or tried out."""
  device = jax.devices()[0].device_kind
  if (device, dtype) in KNOWN_RATES:
    rates = KNOWN_RATES[device, dtype]
    return Roofline(*rates, f'{device}, {dtype}: known')
  matrix = jnp.ones((_PROBE_SIZE, _PROBE_SIZE), dtype)
  product = _best_seconds(jax.jit(jnp.dot), matrix, matrix)
  vector = jnp.ones((2**26,), jnp.float32)
  copy = _best_seconds(jax.jit(lambda x: x + 1), vector)
  return Roofline(
    2 * _PROBE_SIZE**3 / product,
    2 * vector.nbytes / copy,
    f'{device}, {dtype}: a matrix product of {_PROBE_SIZE} and a copy of '
    f'{vector.nbytes >> 20} MiB, tried before the run',
  )


def add_steps(
  program: Mapping[str, float], step: Mapping[str, float], steps: int
) -> tuple[float, float]:
  """Operations and bytes of a program whose loop runs `steps` times.

  Args:
    program: its cost analysis, with one step in it.
    step: that of one step alone.
    steps: how often it runs.
  """
  flops, transferred = (
    program[name] + (steps - 1) * step[name]
    for name in ('flops', 'bytes accessed')
  )
  return flops, transferred


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Memory of a program at its peak: arguments, outputs and temporaries."""
  memory = compiled.memory_analysis()
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes


_HEADER = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$')
_CALLED = re.compile(r'(?:calls|to_apply|body|condition)=%?([\w.\-]+)')
_BODY = re.compile(r'body=%?([\w.\-]+)')
_TRANSPOSITION = re.compile(r'= \w+\[([\d,]*)\]\S* transpose\(')
_PRODUCT = re.compile(
  r'= \(?\w+\[([\d,]*)\].* (?:dot|custom-call)\(.*(?:contracting|gemm|matmul)'
)


def products_in_loops(hlo: str) -> list[int]:
  """Sizes, in elements, of the matrix products inside while loops.

  Args:
    hlo: text of a module, before or after optimization.

  Returns:
    One number per product; a projection of the memory is as large as memory
    tokens x embed.
  """
  return _sizes_in_loops(hlo, _PRODUCT)


def transpositions_in_loops(hlo: str) -> list[int]:
  """The same of transpositions; those of weights belong before a loop."""
  return _sizes_in_loops(hlo, _TRANSPOSITION)


def _sizes_in_loops(hlo, pattern):
  lines: dict[str, list[str]] = {}
  current: list[str] = []
  for line in hlo.splitlines():
    header = _HEADER.match(line.strip())
    if header and not line.startswith('HloModule'):
      current = lines.setdefault(header.group(1), [])
    else:
      current.append(line)
  todo = set(_BODY.findall(hlo))
  inside: set[str] = set()
  while todo:
    name = todo.pop()
    inside.add(name)
    called = _CALLED.findall('\n'.join(lines.get(name, ())))
    todo.update(set(called) - inside)
  found = []
  for name in sorted(inside):
    for line in lines.get(name, ()):
      matched = pattern.search(line)
      if matched:
        sizes = [int(n) for n in matched.group(1).split(',') if n]
        found.append(math.prod(sizes))
  return found
