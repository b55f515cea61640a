"""The model object: what a trainer, T5X's or ours, and the engine drive.

It fulfils T5X's contract by its methods alone and imports nothing of it:
`FEATURE_CONVERTER_CLS`, `get_initial_variables`, `loss_fn`, `eval_fn`,
`predict_batch`, `predict_batch_with_aux`, `score_batch`. The teacher of
stage 2 is a mutable collection in Flax's sense (`flax_mutables` in T5X), so
that it is sharded and checkpointed like the parameters but never trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import (
  absorbed,
  adapters,
  codec_fit,
  decoding,
  initialization,
  integers,
  objective,
  quantized,
  token_codec,
)
from btr_jax.models import reader as reader_lib
from btr_jax.models.trees import flat_params as flat_params
from btr_jax.models.trees import nested_params as nested_params

Batch = Mapping[str, Array]
Params = Mapping[str, Any]

# Stage of the recipe -> mode of encoding (BTR section 3.2).
STAGE_MODES = {1: 'joint', 2: 'decomposed', 3: 'binary'}
TEACHER = objective.TEACHER


class BtrModel:
  """A reader, the stage it is trained in, and the mode it answers in.

  Attributes:
    config: architecture and codec.
    limits: lengths the inputs are padded to.
    mode: how `predict_batch` and the losses encode.
    stage: of the recipe.
    objective: the stage's losses; where signs are annealed, `loss_fn` needs
      the step.
    module: the Linen module, for T5X.
    inference: how `encode` and `decode` run unless they are told otherwise.
    optimizer_def: T5X's optimizer; ours is built by the trainer.
    input_vocabulary: SeqIO vocabulary of questions and passages, for T5X.
    output_vocabulary: SeqIO vocabulary of answers, for T5X.
  """

  def __init__(
    self,
    config: config_lib.ReaderConfig,
    limits: config_lib.InputLimits,
    *,
    stage: int = 1,
    mode: str | None = None,
    distill_tokens: str = 'attention',
    recovery_weight: float = 1.0,
    train_lower: bool = True,
    adapter_rank: int = 0,
    annealing: config_lib.AnnealingConfig | None = None,
    inference: config_lib.InferenceConfig = config_lib.DEFAULT_INFERENCE,
    input_vocabulary: Any = None,
    output_vocabulary: Any = None,
    optimizer_def: Any = None,
  ):
    """See the class; `mode` defaults to the stage's.

    Raises:
      ValueError: unknown stage, mode or token selection, a negative weight, or
        annealing where no sign is trained.
    """
    if stage not in STAGE_MODES:
      raise ValueError(
        f'stage is {stage!r}; expected 1 (task), 2 (decomposed, distilled) '
        'or 3 (binary, recovered).'
      )
    self.config = config
    self.limits = limits
    self.stage = stage
    self.mode = STAGE_MODES[stage] if mode is None else mode
    config_lib.check_choice('mode', self.mode, config_lib.MODES)
    self.objective = objective.Objective(
      stage,
      distill_tokens,
      recovery_weight,
      train_lower,
      adapter_rank,
      annealing,
    )
    self.objective.check_codec(config.codec)
    self.inference = inference
    self.input_vocabulary = input_vocabulary
    self.output_vocabulary = output_vocabulary
    self.optimizer_def = optimizer_def
    self.module = reader_lib.Reader(config)

  @property
  def FEATURE_CONVERTER_CLS(self):  # noqa: N802 (T5X's name)
    """The SeqIO feature converter; imports TensorFlow only when asked for."""
    from btr_jax.data import feature_converters

    return feature_converters.BtrFeatureConverter

  @property
  def annealing(self) -> config_lib.AnnealingConfig | None:
    """How signs are annealed; `loss_fn` needs the step then."""
    return self.objective.annealing

  @property
  def codec_layout(self) -> token_codec.CodecLayout:
    """Bytes per token of the codec."""
    return token_codec.codec_layout(self.config)

  # ---------------------------------------------------------------- variables

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, Any],
    input_types: Mapping[str, Any] | None = None,
  ) -> dict[str, Any]:
    """Fresh parameters and their logical axes.

    Args:
      rng: key of the initialisers.
      input_shapes: shape of each model feature; batch and passages are cut to
        one, since no parameter depends on them.
      input_types: unused; every input is int32 here.

    Returns:
      `params` and `params_axes`; in stage 2 also `teacher` and
      `teacher_axes`, of the same structure.
    """
    del input_types
    question_length = input_shapes['question_tokens'][-1]
    passage_length = input_shapes['passage_tokens'][-1]
    answer_length = input_shapes['decoder_input_tokens'][-1]
    variables = self.module.init(
      rng,
      jnp.ones((1, question_length), jnp.int32),
      jnp.ones((1, 1, passage_length), jnp.int32),
      jnp.ones((1, answer_length), jnp.int32),
      self.mode,
    )
    params = variables['params']
    if self.config.initializer == 'mimetic':
      params = initialization.mimetic(params, rng, self.config)
    variables = {'params': params, 'params_axes': variables['params_axes']}
    if self.objective.adapter_rank:
      variables = self._with_adapters(variables, rng)
    if self.stage == 2:
      variables[TEACHER] = variables['params']
      variables[f'{TEACHER}_axes'] = variables['params_axes']
    return variables

  def _with_adapters(self, variables, rng):
    params, split_layer = variables['params'], self.config.split_layer
    objective_ = self.objective
    names = adapters.adapted_names(params, split_layer, objective_.train_lower)
    fresh = adapters.initial(params, rng, names, objective_.adapter_rank)
    of_axes = adapters.initial_axes(variables['params_axes'], names)
    return {
      'params': {**params, adapters.GROUP: fresh},
      'params_axes': {**variables['params_axes'], adapters.GROUP: of_axes},
    }

  def input_shapes(self, batch_size: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of a batch at the configured limits."""
    limits = self.limits
    answers = (batch_size, limits.answer_length)
    return {
      'question_tokens': (batch_size, limits.question_length),
      'passage_tokens': (
        batch_size,
        limits.num_passages,
        limits.passage_length,
      ),
      'decoder_input_tokens': answers,
      'decoder_target_tokens': answers,
      'decoder_loss_weights': answers,
    }

  def fit_codec(
    self,
    params: Params,
    passage_batches: Iterable[np.ndarray],
    prediction: str = 'both',
  ) -> Params:
    """Starts the codec's parameters from the statistics of a corpus.

    Args:
      params: parameters with the lower layers already trained.
      passage_batches: passage tokens [sequences, length], padded with 0.
      prediction: how token ids predict, see `codec_fit.PREDICTIONS`.

    Returns:
      `params` with `codec` replaced for the residual codec; for the others,
      which need no statistics, `params` itself.
    """
    if self.config.codec.kind != 'residual':
      return params

    @jax.jit
    def states_of(variables, tokens):
      return self.module.apply(variables, tokens, method='passage_states')

    variables = self.variables(params)
    fitted = codec_fit.fit_residual_codec(
      functools.partial(states_of, variables),
      passage_batches,
      self.config,
      params['token_embedder']['embedding'],
      prediction,
    )
    return {**params, 'codec': jax.tree.map(jnp.asarray, fitted)}

  # ------------------------------------------------------------------ training

  def loss_fn(
    self,
    params: Params,
    batch: Batch,
    dropout_rng: jax.Array | None,
    flax_mutables: Mapping[str, Any] | None = None,
    step: Int[Array, ''] | int | None = None,
  ):
    """The stage's loss and metrics.

    Args:
      params: parameters, differentiated by the caller.
      batch: model features, see `data/feature_converters.py`.
      dropout_rng: key for dropout and random token choice; None for neither.
      flax_mutables: in stage 2 {'teacher': parameters}.
      step: updates done, where signs are annealed.

    Returns:
      (loss, metrics); with flax_mutables (loss, (metrics, flax_mutables)).
      The loss is the mean per target token; metrics are clu Metrics.

    Raises:
      ValueError: stage 2 without a teacher, or annealing without a step.
    """
    loss, metrics = self.objective.loss(
      self.module,
      self.config.split_layer,
      self.mode,
      params,
      batch,
      dropout_rng,
      flax_mutables,
      step,
    )
    if flax_mutables:
      return loss, (metrics, flax_mutables)
    return loss, metrics

  def eval_fn(
    self,
    params: Params,
    batch: Batch,
    flax_mutables: Mapping[str, Any] | None = None,
  ):
    """The task's loss alone, without dropout; what stages compare by."""
    del flax_mutables
    logits, _ = self.module.apply(
      {'params': adapters.merged(params)},
      batch['question_tokens'],
      batch['passage_tokens'],
      batch['decoder_input_tokens'],
      self.mode,
      packed=objective.packed_passages(batch, self.mode),
    )
    loss, accuracy = objective.task_loss_of(logits, batch)
    return loss, objective.averages(batch, loss=loss, token_accuracy=accuracy)

  # ----------------------------------------------------------------- inference

  def variables(self, params: Params) -> dict[str, Params]:
    """What `module.apply` takes; matrices of quantized parameters are made
    here, and adapters added, inside the program that calls this."""
    dtype = self.config.dtype
    variables = {}
    for group in (absorbed.GROUP, integers.GROUP):
      if group in params:
        params = dict(params)
        variables[group] = params.pop(group)
    whole = adapters.merged(params)
    return {'params': quantized.dequantize_params(whole, dtype), **variables}

  def encode_passages(
    self,
    params: Params,
    passage_tokens: Int[Array | np.ndarray, 'sequences length'],
  ) -> dict[str, Array]:
    """Passages to the cache's bytes: the offline half of the encoder.

    Args:
      params: parameters with a codec.
      passage_tokens: padded on the right with 0.

    Returns:
      `bits` and `scale`, uint8 [sequences, length, bytes].
    """
    self._check_codec(params)
    packed = self.module.apply(
      self.variables(params),
      jnp.asarray(passage_tokens),
      method='pack_passages',
    )
    return {'bits': packed.bits, 'scale': packed.scale}

  def encode(
    self,
    params: Params,
    batch: Batch,
    mode: str | None = None,
    inference: config_lib.InferenceConfig | None = None,
  ) -> reader_lib.Encoded:
    """Encodes questions with passages, from cached bits where the batch has
    `passage_bits` and `passage_scale` and the mode is binary."""
    mode = self.mode if mode is None else mode
    inference = self.inference if inference is None else inference
    packed = None
    if mode == 'binary':
      self._check_codec(params)
      packed = objective.packed_passages(batch, mode)
    encoded = self.module.apply(
      self.variables(params),
      batch['question_tokens'],
      batch['passage_tokens'],
      mode,
      packed=packed,
      merging=inference.merging,
      tokens_at_once=inference.tokens_at_once,
      method='encode',
    )
    return encoded.replace(recovery=None)

  def decode(
    self,
    params: Params,
    encoded: reader_lib.Encoded,
    max_length: int | None = None,
    inference: config_lib.InferenceConfig | None = None,
  ) -> tuple[Int[Array, 'batch max_length'], Float[Array, 'batch']]:
    """Answers by greedy or beam search, and the sum of their tokens' log
    probabilities."""
    max_length = max_length or self.limits.answer_length
    inference = self.inference if inference is None else inference
    batch = encoded.states.shape[0]
    variables = self.variables(params)
    cache, constants = self.module.apply(
      variables, encoded, max_length, inference, method='start_decoding'
    )

    def step_fn(cache, tokens, step):
      return self.module.apply(
        variables, cache, constants, tokens, step, method='decode_step'
      )

    if inference.num_beams > 1:
      return decoding.beam_search(
        step_fn,
        cache,
        batch,
        max_length,
        inference.num_beams,
        inference.length_penalty,
      )

    def greedy_step(cache, tokens, step):
      logits, cache = step_fn(cache, tokens[:, None], step)
      return logits[:, 0], cache

    return decoding.greedy(greedy_step, cache, batch, max_length)

  def predict_batch(
    self, params: Params, batch: Batch, rng: jax.Array | None = None
  ) -> Int[Array, 'batch answer_length']:
    """Answers of a batch."""
    return self.predict_batch_with_aux(params, batch, rng)[0]

  def predict_batch_with_aux(
    self, params: Params, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Int[Array, 'batch answer_length'], dict[str, Array]]:
    """Answers and, as `scores`, their log probabilities."""
    del rng  # Nothing is drawn: greedy or beam search.
    tokens, scores = self.decode(params, self.encode(params, batch))
    return tokens, {'scores': scores}

  def score_batch(
    self, params: Params, batch: Batch, return_intermediates: bool = False
  ):
    """Log probability of each example's target, [batch]."""
    logits, _ = self.module.apply(
      self.variables(params),
      batch['question_tokens'],
      batch['passage_tokens'],
      batch['decoder_input_tokens'],
      self.mode,
    )
    log_probs = jax.nn.log_softmax(logits)
    target = batch['decoder_target_tokens'][..., None]
    per_token = jnp.take_along_axis(log_probs, target, axis=-1)[..., 0]
    scores = jnp.sum(per_token * batch['decoder_loss_weights'], axis=-1)
    if return_intermediates:
      return scores, {'token_scores': per_token}
    return scores

  def _check_codec(self, params):
    # The float codec has no parameters: any reader can cache floats.
    if 'codec' not in params and self.config.codec.kind != 'float':
      raise ValueError(
        "These parameters hold no 'codec': the reader was not trained in "
        'stage 3. Load a binary reader, or train one with --gin.STAGE=3.'
      )
