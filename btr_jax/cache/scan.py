"""The first pass over a corpus: lengths, and a fingerprint of all tokens."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib

from jaxtyping import Integer
import numpy as np

# int32 tokens [stop - start, passage_length] of passages [start, stop).
PassageTokens = Callable[[int, int], np.ndarray]

_SCAN_PASSAGES = 4096


@dataclasses.dataclass(frozen=True)
class Scan:
  """What the first pass finds out.

  Attributes:
    lengths: uint16 [passages], tokens of each.
    passage_length: tokens that passages are padded to.
    sha256: of all tokens, padding included; None if they were not read.
  """

  lengths: np.ndarray
  passage_length: int
  sha256: str | None


def scan(
  passage_tokens_of: PassageTokens,
  num_passages: int,
  progress: Callable[[int, int], None] | None = None,
) -> Scan:
  """Reads all tokens once, in bounded memory.

  Args:
    passage_tokens_of: (start, stop) -> int32 [stop - start, passage_length],
      padded on the right with 0.
    num_passages: passages in the corpus.
    progress: called with (passages read, num_passages).

  Raises:
    ValueError: tokens of the wrong shape, or padding inside a passage.
  """
  if num_passages < 1:
    raise ValueError(
      f'num_passages is {num_passages}; a cache needs at least 1 passage.'
    )
  passage_length = None
  digest = hashlib.sha256()
  lengths = np.zeros(num_passages, np.uint16)
  for start in range(0, num_passages, _SCAN_PASSAGES):
    stop = min(start + _SCAN_PASSAGES, num_passages)
    tokens = checked_tokens(passage_tokens_of, start, stop, passage_length)
    passage_length = tokens.shape[1]
    if passage_length >= 2**16:
      raise ValueError(
        f'Passages are padded to {passage_length} tokens; expected fewer than '
        '65,536. Split them.'
      )
    lengths[start:stop] = lengths_of(tokens, start)
    digest.update(np.ascontiguousarray(tokens, '<i4').tobytes())
    if progress:
      progress(stop, num_passages)
  return Scan(lengths, passage_length, digest.hexdigest())


def checked_tokens(
  passage_tokens_of: PassageTokens,
  start: int,
  stop: int,
  passage_length: int | None,
) -> np.ndarray:
  """Tokens of passages [start, stop); ValueError if they are misshapen."""
  tokens = np.asarray(passage_tokens_of(start, stop))
  count = stop - start
  wanted = (count, passage_length or 'passage_length')
  if (
    tokens.ndim != 2
    or tokens.dtype.kind not in 'iu'
    or len(tokens) != count
    or passage_length not in (None, tokens.shape[1])
  ):
    raise ValueError(
      f'passage_tokens_of({start}, {stop}) returned {tokens.dtype} '
      f'{tokens.shape}; expected integers {wanted}.'
    )
  return tokens


def lengths_of(
  tokens: Integer[np.ndarray, 'passages length'], first_passage: int
) -> np.ndarray:
  """Lengths of right-padded passages; 0 may stand only behind the tokens."""
  real = tokens != 0
  lengths = real.sum(axis=1)
  holes = (real != (np.arange(tokens.shape[1]) < lengths[:, None])).any(axis=1)
  if holes.any():
    raise ValueError(
      f'Passage {first_passage + int(np.argmax(holes))} has padding (0) before '
      'its last token; pad passages on the right only.'
    )
  return lengths
