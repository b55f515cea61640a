"""Memory and parameters of a model that is not there, by its shapes alone."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.baselines.language_model import model as model_lib
from btr_jax.baselines.language_model import parameters


@dataclasses.dataclass(frozen=True)
class Footprint:
  """What answering needs, but for activations.

  Attributes:
    num_parameters: of the model.
    parameter_bytes: in the dtype of the configuration.
    cache_bytes: keys and values of a batch of prompts and answers.
    num_lora_parameters: of the low-rank updates that are trained.
  """

  num_parameters: int
  parameter_bytes: int
  cache_bytes: int
  num_lora_parameters: int


def footprint(
  config: config_lib.LanguageModelConfig,
  *,
  batch: int,
  prompt_length: int,
  answer_length: int,
  lora: config_lib.LoraConfig = config_lib.PAPER_LORA,
) -> Footprint:
  """Counts by `jax.eval_shape`; nothing is computed or allocated.

  Args:
    config: architecture.
    batch: questions at once.
    prompt_length: tokens of a padded prompt.
    answer_length: tokens of an answer at most.
    lora: the updates that fine-tuning trains.

  Returns:
    The counts.
  """
  params = parameters.abstract_variables(config)['params']
  num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  tokens = jax.ShapeDtypeStruct((batch, prompt_length), jnp.int32)
  mask = jax.ShapeDtypeStruct((batch, prompt_length), jnp.bool_)
  # The caches of all layers are alike.
  one = dataclasses.replace(config, num_layers=1)

  def prefill(params, tokens, mask):
    _, cache = model_lib.LanguageModel(one).apply(
      {'params': params}, tokens, mask, answer_length - 1, method='prefill'
    )
    return cache.keys_values[0]

  cache = jax.eval_shape(
    prefill, parameters.abstract_variables(one)['params'], tokens, mask
  )
  return Footprint(
    num_parameters,
    num_parameters * jnp.dtype(config.dtype).itemsize,
    config.num_layers * parameters.num_bytes(cache),
    sum(math.prod(shape) for shape in lora_lib.shapes(config, lora).values()),
  )
