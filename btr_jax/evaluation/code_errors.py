"""How much of a token's state each code loses: on a reader's own passages.

States of real passages are coded by codes whose statistics come from other
passages. Two errors, each relative to what is coded:

  read      of y = w x / rms(x), which the attention of the next layer reads
  residual  of x / rms(x), which the residual stream carries on

Nothing is trained, so this says what a code starts from, and how codes compare
at equal bytes; answers are another matter (docs/codes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.evaluation import code_answers
from btr_jax.models import codec_fit, codecs, reader_files, token_codec

PAD_ID = 0
Tokens = Int[np.ndarray, 'sequences length']
States = Float[np.ndarray | jax.Array, 'sequences length embed']
# Of the states of a batch, what a code makes of them.
Decode = Callable[[States, Tokens], States]


@dataclasses.dataclass(frozen=True)
class Dial:
  """One setting of a codec.

  Attributes:
    name: of the row.
    codec: the codec.
    prediction: how the residual codec's tables are fitted.
  """

  name: str
  codec: config_lib.CodecConfig
  prediction: str = 'both'


def dials(embed_dim: int) -> list[Dial]:
  """The settings that are compared, for states of `embed_dim` dimensions."""

  def residual(bits, per_dim=1, window=0, prediction='both'):
    each = f', {per_dim} bits each' if per_dim > 1 else ''
    near = f', window {window}' if window else ''
    how = '' if prediction == 'both' else f', {prediction} alone'
    codec = config_lib.CodecConfig('residual', bits, 8, per_dim, window)
    return Dial(f'residual, {bits} bits{each}{near}{how}', codec, prediction)

  sizes = [embed_dim // part for part in (1, 2, 4, 8)]
  # 16 bytes at 768 dimensions, a byte each for rms and amplitude included.
  sizes.append(14 * 8 * embed_dim // 768 // 8 * 8)
  sizes = [bits for bits in sizes if bits and not bits % 8]
  found = [
    Dial('float', config_lib.CodecConfig('float')),
    Dial('sign', config_lib.CodecConfig('sign')),
    Dial('calibrated', config_lib.CodecConfig('calibrated', scale_bits=8)),
  ]
  found += [residual(bits) for bits in sizes]
  found += [residual(bits, window=1) for bits in sizes]
  found += [residual(bits, window=2) for bits in (sizes[0], sizes[-1])]
  found += [
    residual(bits, prediction=how)
    for bits in (sizes[0], sizes[-1])
    for how in ('mean', 'embedding')
  ]
  found += [residual(embed_dim * bits, bits) for bits in (2, 4, 8)]
  # The same bytes, in fewer directions of more bits.
  found += [residual(bits, 2) for bits in sizes]
  found += [residual(bits, 2, window=1) for bits in sizes]
  found += [residual(bits, 4) for bits in sizes]
  found += [residual(bits, 4, window=1) for bits in sizes]
  return found


def chosen_dials(embed_dim: int, names: Sequence[str] | None) -> list[Dial]:
  """The settings of these names, in the order of `dials`.

  Args:
    embed_dim: of the states.
    names: None takes all.

  Raises:
    ValueError: a name that no setting has.
  """
  found = dials(embed_dim)
  if names is None:
    return found
  known = [dial.name for dial in found]
  for name in names:
    if name not in known:
      raise ValueError(f'--codes {name!r}; expected of: {"; ".join(known)}.')
  return [dial for dial in found if dial.name in names]


class StoredStates:
  """States of passages, computed once: tokens * embed * 4 bytes of memory.

  Attributes:
    batches: tokens of each batch.
    embed_dim: width of the states.
  """

  def __init__(
    self,
    reader: reader_files.LoadedReader,
    batches: Iterable[Tokens],
    progress: Callable[[int], None] = lambda done: None,
  ):
    """Runs the lower layers over the batches."""

    @jax.jit
    def states_of(params, tokens):
      variables = reader.model.variables(params)
      return reader.model.module.apply(
        variables, tokens, method='passage_states'
      )

    self.batches, self._states = [], {}
    for tokens in batches:
      tokens = np.asarray(tokens)
      self.batches.append(tokens)
      found = states_of(reader.params, tokens)
      self._states[tokens.tobytes()] = np.asarray(found, np.float32)
      progress(len(self.batches))
    if not self.batches:
      raise ValueError('There are no passages; expected at least one batch.')
    self.embed_dim = found.shape[-1]

  def of(self, tokens: Tokens) -> np.ndarray:
    """The states of one of the batches."""
    return self._states[tokens.tobytes()]

  def real(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(x / rms(x), ids) of the real tokens, batch by batch."""
    for tokens in self.batches:
      kept = tokens != PAD_ID
      yield _unit(self.of(tokens)[kept]), tokens[kept]


def _rms(states):
  return np.sqrt(np.mean(np.square(states), axis=-1, keepdims=True) + 1e-6)


def _unit(states):
  return states / _rms(states)


def errors(
  stored: StoredStates, norm_scale: np.ndarray, decode: Decode
) -> dict[str, float]:
  """Relative squared errors of a code.

  Args:
    stored: states that the code was not fitted to.
    norm_scale: weight of the norm that reads them, [embed].
    decode: what the code makes of a batch.

  Returns:
    `read` and `residual`, see the module.
  """
  lost = dict.fromkeys(('read', 'residual'), 0.0)
  whole = dict.fromkeys(lost, 0.0)
  for tokens in stored.batches:
    real = tokens != PAD_ID
    states = stored.of(tokens)
    decoded = np.asarray(decode(states, tokens), np.float64)[real]
    states = states[real].astype(np.float64)
    rms = _rms(states)
    pairs = {
      'read': (norm_scale * _unit(decoded), norm_scale * states / rms),
      'residual': (decoded / rms, states / rms),
    }
    for name, (found, wanted) in pairs.items():
      lost[name] += np.square(found - wanted).sum()
      whole[name] += np.square(wanted).sum()
  return {name: float(lost[name] / whole[name]) for name in lost}


def fitted(
  reader: reader_files.LoadedReader, dial: Dial, fit_on: StoredStates
) -> dict[str, Any]:
  """Parameters of a codec that was fitted to states; empty if it has none."""
  if dial.codec.kind != 'residual':
    return {}
  return codec_fit.fit_residual_codec(
    fit_on.of,
    fit_on.batches,
    dataclasses.replace(reader.config, codec=dial.codec),
    reader.params['token_embedder']['embedding'],
    dial.prediction,
  )


def codec_decoder(
  reader: reader_files.LoadedReader,
  dial: Dial,
  params: Mapping[str, Any],
  norm_scale: np.ndarray,
) -> tuple[Decode, token_codec.CodecLayout]:
  """A codec with these parameters, through the cache's bytes and back."""
  config = dataclasses.replace(reader.config, codec=dial.codec)
  codec = codecs.make_codec(config)
  params = jax.tree.map(jnp.asarray, dict(params))
  scale = jnp.asarray(norm_scale)

  @jax.jit
  def decode(params, states, tokens):
    bound = codec.bind({'params': params})
    packed = bound.pack(bound.encode(states, tokens, scale))
    return bound.decode(bound.unpack(packed), tokens, scale)

  return (
    lambda states, tokens: decode(params, states, tokens),
    token_codec.codec_layout(config),
  )


def measure(
  reader: reader_files.LoadedReader,
  fit_on: StoredStates,
  test_on: StoredStates,
  norm_scale: np.ndarray,
  chosen: Iterable[Dial],
  progress: Callable[[str], None] = lambda name: None,
  answers: code_answers.CodeAnswers | None = None,
) -> list[dict[str, Any]]:
  """A row for each setting: name, bytes per token, errors; maybe answers."""
  rows = []
  for dial in chosen:
    progress(dial.name)
    params = fitted(reader, dial, fit_on)
    decode, layout = codec_decoder(reader, dial, params, norm_scale)
    row = {
      'code': dial.name,
      'codec': dataclasses.asdict(dial.codec),
      'bytes_per_token': layout.bits_bytes + layout.scale_bytes,
      **errors(test_on, norm_scale, decode),
    }
    if answers is not None:
      row |= answers.score(dial.codec, params)
    rows.append(row)
  return rows


def split_norm_scale(params: Mapping[str, Any], split_layer: int) -> np.ndarray:
  """Weight of the norm that reads the states at the split, [embed]."""
  layer = params['encoder'][f'layers_{split_layer}']
  return np.asarray(layer['pre_attention_layer_norm']['scale'], np.float64)
