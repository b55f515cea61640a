"""Means of the scale bytes that codecs store beside the bits."""

from __future__ import annotations

import re

from jaxtyping import Float64, UInt8
import numpy as np

# What a codec's scale bytes are, with 16 and with 8 bits of scale: bfloat16
# numbers and bytes on a logarithmic scale, of which the mean is taken in the
# logarithm (the geometric mean).
_FORMATS = {
  'sign': [()],
  'calibrated': [('bfloat16',), ('logarithm',)],
  'residual': [('bfloat16', 'logarithm'), ('logarithm', 'logarithm')],
}
_BYTES = {'bfloat16': 2, 'logarithm': 1}


# The residual codec's name with levels of more bits, as
# `token_codec.codec_layout` makes it.
_LEVELS = re.compile('(residual)_([248])bit')


class ScaleFormat:
  """Reads and writes the scale bytes of one codec.

  Attributes:
    level_bits: bits of each value that stands before the scale: 1 a sign.
  """

  def __init__(self, codec_kind: str, scale_bytes: int):
    """Knows the codecs whose codes are bits or levels.

    Raises:
      ValueError: the codec stores no bits that could be merged, or has other
        scale bytes than this version knows.
    """
    levels = _LEVELS.fullmatch(codec_kind)
    kind, bits = levels.groups() if levels else (codec_kind, '1')
    if kind not in _FORMATS:
      raise ValueError(
        f'A cache of codec {codec_kind!r} cannot be compressed: only bits and '
        f'levels are merged. Codecs that can: {sorted(_FORMATS)}.'
      )
    self.level_bits = int(bits)
    known = {
      sum(_BYTES[part] for part in parts): parts for parts in _FORMATS[kind]
    }
    if scale_bytes not in known:
      raise ValueError(
        f'The cache has {scale_bytes} scale bytes per token; codec '
        f'{codec_kind!r} has {" or ".join(map(str, known))} in this version '
        'of btr_jax. Use the version that built the cache.'
      )
    self._parts = known[scale_bytes]

  def decode(
    self, scale: UInt8[np.ndarray, 'tokens scale_bytes']
  ) -> Float64[np.ndarray, 'tokens scales']:
    """The numbers whose mean may be taken."""
    values = np.zeros((len(scale), len(self._parts)))
    at = 0
    for column, part in enumerate(self._parts):
      if part == 'bfloat16':
        low, high = scale[:, at].astype(np.uint32), scale[:, at + 1]
        raw = low << 16 | high.astype(np.uint32) << 24
        values[:, column] = raw.view(np.float32)
      else:
        values[:, column] = scale[:, at]
      at += _BYTES[part]
    return values

  def encode(
    self, values: Float64[np.ndarray, 'tokens scales']
  ) -> UInt8[np.ndarray, 'tokens scale_bytes']:
    """The inverse of decode; rounds to the nearest, ties to even."""
    columns = []
    for column, part in enumerate(self._parts):
      if part == 'bfloat16':
        raw = values[:, column].astype(np.float32).view(np.uint32)
        raw = raw + np.uint32(0x7FFF) + (raw >> np.uint32(16) & np.uint32(1))
        columns += [raw >> np.uint32(16), raw >> np.uint32(24)]
      else:
        columns.append(np.clip(np.rint(values[:, column]), 0, 255))
    if not columns:
      return np.zeros((len(values), 0), np.uint8)
    wide = np.stack(columns, axis=1)
    return (wide.astype(np.int64) & 0xFF).astype(np.uint8)
