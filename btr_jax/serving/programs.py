"""The compiled programs of a reader: every shape once, from any thread.

`answer` is encoder and decoder in one: questions through the lower layers,
bits unpacked on the device, upper layers, the whole loop of the decoder.
`encode` and `decode` are its halves, for those who want the time of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
import dataclasses
import os
import sys
import threading
import time
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp

from btr_jax import config as config_lib
from btr_jax.models import absorbed, integers, merging
from btr_jax.models import model as model_lib
from btr_jax.models import reader as reader_lib

# Parameters that are cast to the type of the activations wherever they are
# used; the others (norms, the codec) count in float32.
_CAST = ('kernel', 'embedding')
# Of a processor's cache, for what a layer computes of a group of passages.
_CACHE_BYTES = 6 << 20


def use_compilation_cache(folder: str | os.PathLike) -> None:
  """Keeps compiled programs in a folder, for the processes that come later."""
  compilation_cache.reset_cache()  # It looks for its folder only once.
  jax.config.update('jax_compilation_cache_dir', os.fspath(folder))
  # Small programs too: it is their number that the start waits for.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def cast_params(
  params: Mapping[str, Any], dtype: str | jnp.dtype
) -> Mapping[str, Any]:
  """Casts matrices once, in place of in every program and step.

  Answers are the same bit for bit: the model casts them where it uses them.

  Args:
    params: nested parameters.
    dtype: of the activations.

  Returns:
    The parameters, their matrices in `dtype`.
  """

  def cast(path, leaf):
    names = [entry.key for entry in path]
    if names[0] == 'codec' or names[-1] not in _CAST:
      return leaf
    return leaf.astype(dtype)

  return jax.tree_util.tree_map_with_path(cast, params)


def tokens_at_once(config: config_lib.ReaderConfig) -> int | None:
  """How many tokens the encoder best reads together on this machine.

  Args:
    config: of the reader.

  Returns:
    None for all of them: accelerators want large products. On a CPU as many as
    leave the feed-forward layers' insides in the processors' caches, where
    what follows a product finds them.
  """
  if jax.default_backend() != 'cpu':
    return None
  inside = config.mlp_dim * jnp.dtype(config.dtype).itemsize
  return max(1, _CACHE_BYTES * _processors() // inside)


def _processors() -> int:
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class Programs:
  """A reader in one mode and form, compiled ahead of use."""

  def __init__(
    self,
    model: model_lib.BtrModel,
    params: Mapping[str, Any],
    mode: str,
    inference: config_lib.InferenceConfig = config_lib.DEFAULT_INFERENCE,
    *,
    dtype: str | None = None,
    answer_length: int | None = None,
  ):
    """Moves the parameters to the device; compiles nothing.

    Args:
      model: the reader; its own mode and inference do not matter.
      params: its parameters.
      mode: `joint`, `decomposed` or `binary`.
      inference: form of cross-attention, merging, beams.
      dtype: of activations and matrices; None takes the reader's.
      answer_length: tokens at most; None takes the reader's limit.

    Raises:
      ValueError: unknown mode.
    """
    config_lib.check_choice('mode', mode, config_lib.MODES)
    if dtype not in (None, model.config.dtype):
      config = dataclasses.replace(model.config, dtype=dtype)
      model = model_lib.BtrModel(config, model.limits, stage=model.stage)
    if inference.tokens_at_once is None:
      inference = dataclasses.replace(
        inference, tokens_at_once=tokens_at_once(model.config)
      )
    self.mode = mode
    self.inference = inference
    self.model = model
    self.answer_length = answer_length or model.limits.answer_length
    params = jax.device_put(cast_params(params, model.config.dtype))
    config = model.config
    form = inference.cross_attention_for(self.answer_length, config.head_dim)
    if form == 'absorbed':
      params = absorbed.prepared(params, config.num_heads)
    if inference.int8_products:
      params = integers.prepared(params)
    self.params = params
    self.compile_seconds = 0.0
    self._executables: dict[Any, Callable[..., Any]] = {}
    self._compiling = threading.Lock()

  def without_groups(self) -> Programs:
    """The same with an encoder that reads all passages together, to be
    counted; parameters are shared."""
    other = copy.copy(self)
    other.inference = dataclasses.replace(
      self.inference, tokens_at_once=sys.maxsize
    )
    other._executables = {}
    return other

  # What passes between the two is a plain dictionary: compiling ahead of time
  # rebuilds containers around things that are no arrays.

  def encode(self, params: Any, batch: Any) -> dict[str, Any]:
    """The encoder, to be traced."""
    encoded = self.model.encode(params, batch, self.mode, self.inference)
    memory = {'states': encoded.states, 'mask': encoded.mask}
    if encoded.tokens is not None:
      memory['tokens'] = vars(encoded.tokens)
    return memory

  def _encoded(self, memory: Any) -> reader_lib.Encoded:
    memory = dict(memory)
    tokens = memory.pop('tokens', None)
    return reader_lib.Encoded(
      **memory, tokens=None if tokens is None else merging.Tokens(**tokens)
    )

  def decode(self, params: Any, memory: Any) -> jax.Array:
    """The decoder, to be traced."""
    return self.model.decode(
      params, self._encoded(memory), self.answer_length, self.inference
    )[0]

  def start(self, params: Any, memory: Any) -> Any:
    """What the decoder does before its first step, to be traced."""
    return self.model.module.apply(
      self.model.variables(params),
      self._encoded(memory),
      self.answer_length,
      self.inference,
      method='start_decoding',
    )

  def answer(self, params: Any, batch: Any) -> jax.Array:
    """Both, to be traced: token ids [batch, answer_length]."""
    return self.decode(params, self.encode(params, batch))

  def compiled(self, name: str, inputs: Any) -> Callable[..., Any]:
    """The program `name` for inputs of these shapes, `(params, inputs) -> ...`.

    Args:
      name: `answer`, `encode` or `decode`.
      inputs: arrays, or their shapes and types.
    """
    leaves = jax.tree.leaves(inputs)
    key = (name, *((leaf.shape, leaf.dtype) for leaf in leaves))
    found = self._executables.get(key)
    if found is not None:
      return found
    with self._compiling:
      if key not in self._executables:
        start = time.perf_counter()
        self._executables[key] = self.lower(name, inputs).compile()
        self.compile_seconds += time.perf_counter() - start
      return self._executables[key]

  def lower(self, name: str, inputs: Any) -> jax.stages.Lowered:
    """The program before it is compiled, kept nowhere; as `compiled`."""
    return jax.jit(getattr(self, name)).lower(self.params, inputs)

  def run(self, name: str, inputs: Any) -> Any:
    """Runs a program; returns at once, with arrays that are being computed."""
    return self.compiled(name, inputs)(self.params, inputs)
