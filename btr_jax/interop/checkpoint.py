"""What every format is read into, and how a reader's tensors are compared."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from btr_jax import config as config_lib

DTYPES = {
  'float32': np.dtype(np.float32),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float16': np.dtype(np.float16),
}
_SHOWN = 40


class ConversionError(ValueError):
  """A checkpoint that cannot be read, does not fit, or cannot be written."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A reader's parameters under this project's names.

  Attributes:
    family: the format that it was read from.
    tensors: parameters by 'encoder/layers_0/...' name, in the dtypes that
      they were stored in; mapped into memory where the format allows.
    config: architecture and codec.
    config_source: where the architecture stands, for people.
    limits: lengths of the inputs; None where the format has none.
    vocabulary: the SentencePiece model found beside the parameters.
    extra_ids: sentinels behind its pieces.
    step: updates that the parameters have seen.
    left_out: tensors of the source that a reader has no use for, by reason.
    provenance: what the source says of its making.
  """

  family: str
  tensors: Mapping[str, np.ndarray]
  config: config_lib.ReaderConfig
  config_source: str
  limits: config_lib.InputLimits | None = None
  vocabulary: pathlib.Path | None = None
  extra_ids: int = 100
  step: int = 0
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def num_parameters(self) -> int:
    """Numbers in all tensors."""
    return sum(int(value.size) for value in self.tensors.values())

  @property
  def num_bytes(self) -> int:
    """Bytes of all tensors."""
    return sum(int(value.nbytes) for value in self.tensors.values())

  @property
  def has_codec(self) -> bool:
    """Whether the parameters of a token codec are among them."""
    return any(name.startswith('codec/') for name in self.tensors)

  def dtypes(self) -> dict[str, int]:
    """Tensors per dtype."""
    counts: dict[str, int] = {}
    for value in self.tensors.values():
      counts[value.dtype.name] = counts.get(value.dtype.name, 0) + 1
    return dict(sorted(counts.items()))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
  """Whether two arrays agree in dtype, shape and every bit."""
  if a.dtype != b.dtype or a.shape != b.shape:
    return False
  as_bits = f'u{a.dtype.itemsize}'
  # NaN equals itself this way, and 0 does not equal -0.
  return bool(
    np.array_equal(
      np.ascontiguousarray(a).view(as_bits),
      np.ascontiguousarray(b).view(as_bits),
    )
  )


def refuse(problems: list[str], source: str, advice: str) -> None:
  """Raises ConversionError with every problem (the first 40), if any.

  Raises:
    ConversionError: `problems` is not empty.
  """
  if not problems:
    return
  lines = '\n  '.join(problems[:_SHOWN])
  more = len(problems) - _SHOWN
  rest = f'\n  ... and {more} more' if more > 0 else ''
  raise ConversionError(
    f'{source} does not fit ({len(problems)} differences):\n  {lines}{rest}\n'
    f'{advice}'
  )


def check_tensors(
  found: Mapping[str, np.ndarray],
  wanted: Mapping[str, tuple[int, ...]],
  source: str,
) -> None:
  """Compares names, shapes and dtypes with what a configuration builds.

  Args:
    found: tensors of the source, by the source's names.
    wanted: shapes by the same names.
    source: where they come from, for the error.

  Raises:
    ConversionError: naming every missing, unknown or misshapen tensor, and
      every one of a dtype that a reader does not store.
  """
  problems = []
  for name in sorted(set(wanted) | set(found)):
    if name not in found:
      problems.append(f'{name}: missing, expected {wanted[name]}')
    elif name not in wanted:
      problems.append(f'{name}: unknown, found {tuple(found[name].shape)}')
    elif tuple(found[name].shape) != wanted[name]:
      problems.append(
        f'{name}: found {tuple(found[name].shape)}, expected {wanted[name]}'
      )
    elif found[name].dtype not in DTYPES.values():
      problems.append(
        f'{name}: dtype {found[name].dtype}, expected one of '
        f'{", ".join(DTYPES)}'
      )
  refuse(
    problems,
    source,
    'The architecture was read from the configuration beside the weights, or '
    'from their shapes: give the one that they were trained with (--config).',
  )


def cast(
  tensors: Mapping[str, np.ndarray], dtype: str
) -> dict[str, np.ndarray]:
  """Tensors in one dtype.

  Args:
    tensors: by name.
    dtype: one of `DTYPES`.

  Returns:
    New arrays where the dtype differs, rounded to nearest.

  Raises:
    ConversionError: a finite number is too large for the dtype.
  """
  config_lib.check_choice('dtype', dtype, tuple(DTYPES))
  result = {}
  for name, value in tensors.items():
    with np.errstate(over='ignore'):
      new = np.asarray(value, DTYPES[dtype])
    if new.dtype != value.dtype and not np.array_equal(
      np.isfinite(new.astype(np.float32)),
      np.isfinite(value.astype(np.float32)),
    ):
      raise ConversionError(
        f'{name} has numbers up to '
        f'{np.max(np.abs(value.astype(np.float32))):.3g}, which {dtype} '
        'cannot hold; choose bfloat16 or float32.'
      )
    result[name] = new
  return result
