"""What T5X's gin file for training binds; see `t5x`."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import itertools
import pathlib
from typing import Any

from flax import core, traverse_util
import jax
import numpy as np

from btr_jax import axes as axes_lib
from btr_jax import config as config_lib
from btr_jax.interop import t5x as adapter
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import optimizers, sources, start
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import state as state_lib
from btr_jax.training import step as step_lib


def train_steps(recipe: recipe_lib.Recipe, stage: int) -> int:
  """Updates of the stage."""
  return recipe.settings(adapter.check_stage(stage))['train_steps']


def period(every: int, recipe: recipe_lib.Recipe, stage: int) -> int:
  """A period as T5X takes it: at most the whole stage; 0 is its end only."""
  total = train_steps(recipe, stage)
  return min(every or total, total)


def _schedule(optimizer, recipe, stage):
  values = recipe.settings(adapter.check_stage(stage))
  return optimizers.make_schedule(
    optimizer,
    values['learning_rate'],
    values['warmup_steps'],
    values['train_steps'],
  )


def optimizer_def(
  optimizer: optimizers.OptimizerConfig, recipe: recipe_lib.Recipe, stage: int
) -> Any:
  """Our optimizer as T5X's OptimizerDef, schedule included.

  T5X's wrapper for Optax knows the axes of states that copy the parameters;
  this one also those of Adafactor's factors (they are replicated).

  Args:
    optimizer: how parameters are updated.
    recipe: its learning rate, warmup and steps.
    stage: 1, 2 or 3.

  Returns:
    An OptimizerDef.
  """
  from t5x import optimizers as t5x_optimizers

  class OptaxOptimizer(t5x_optimizers.OptaxWrapper):
    """See `optimizer_def`."""

    def derive_logical_axes(self, optimizer, param_logical_axes):
      state = optimizer.state_dict()
      axes = jax.tree.map(lambda _: None, state)
      axes['target'] = core.unfreeze(param_logical_axes)
      axes['state']['param_states'] = state_axes(
        state['state'].get('param_states', {}), state['target'], axes['target']
      )
      return optimizer.restore_state(axes)

  return OptaxOptimizer(
    optimizers.make_optimizer(optimizer, _schedule(optimizer, recipe, stage))
  )


def state_axes(
  states: Mapping[str, Any], params: Mapping[str, Any], axes: Mapping[str, Any]
) -> dict[str, Any]:
  """Logical axes of an optimizer state: as the parameter a leaf belongs to.

  Args:
    states: nested state by name.
    params: nested parameters.
    axes: their logical axes.

  Returns:
    Axes in the structure of `states`; None where a leaf has another shape
    than the parameter whose name ends its own, or belongs to none.
  """
  shapes = {
    name: leaf.shape
    for name, leaf in traverse_util.flatten_dict(core.unfreeze(params)).items()
  }
  names_of = traverse_util.flatten_dict(axes)
  found = {}
  for name, leaf in traverse_util.flatten_dict(states).items():
    owners = (name[i:] for i in range(len(name)) if name[i:] in shapes)
    owner = next(owners, None)
    fits = owner is not None and shapes[owner] == np.shape(leaf)
    found[name] = names_of[owner] if fits else None
  return traverse_util.unflatten_dict(found)


def logical_factor_rules() -> Any:
  """How T5X's own Adafactor factors our axes: its rules, and ours."""
  from t5x import adafactor

  rules = core.unfreeze(adafactor.standard_logical_factor_rules())
  return core.freeze({**rules, axes_lib.BITS: adafactor.FactorDim.COLUMN})


def trainer(
  *,
  optimizer: optimizers.OptimizerConfig,
  recipe: recipe_lib.Recipe,
  stage: int,
  rng: jax.Array,
  **given: Any,
) -> Any:
  """T5X's Trainer with our learning rate, dropout keys and microbatches.

  Args:
    optimizer: names the schedule.
    recipe: learning rate, seed and microbatches.
    stage: 1, 2 or 3.
    rng: T5X's key, unused: the key of a step comes from the recipe's seed.
    **given: what T5X passes beside it.

  Returns:
    A Trainer.
  """
  from t5x import trainer as t5x_trainer

  del rng
  cls = t5x_trainer.Trainer
  if recipe.microbatches > 1:
    cls = _accumulating_trainer(recipe.microbatches)
  return cls(
    rng=jax.random.PRNGKey(recipe.seed),
    learning_rate_fn=_schedule(optimizer, recipe, stage),
    num_microbatches=None,
    **given,
  )


def _accumulating_trainer(microbatches: int) -> type:
  """T5X adds the microbatches' gradients up, which suits losses that are sums;
  ours is a mean, so each part counts by its share of the target tokens."""
  from t5x import trainer as t5x_trainer

  class AccumulatingTrainer(t5x_trainer.Trainer):
    """A Trainer whose update does not depend on the microbatches."""

    @functools.cached_property
    def _partitioned_train_step(self):
      def train_step(train_state, batch):
        mutables = train_state.flax_mutables
        grads, metrics = step_lib.accumulate(
          self._model,
          train_state.params,
          mutables,
          batch,
          self._get_step_rng(train_state.step),
          microbatches,
        )
        return t5x_trainer.apply_grads(
          train_state,
          grads,
          metrics,
          self._learning_rate_fn(train_state.step),
          weight_metrics_computer=None,
          other_state_variables={'flax_mutables': mutables},
        )

      return self._partitioner.partition(
        train_step,
        in_axis_resources=(
          self._train_state_axes,
          self._partitioner.data_partition_spec,
        ),
        out_axis_resources=(self._train_state_axes, None),
        donate_argnums=(0,),
      )

  return AccumulatingTrainer


def stage_initializer(
  *,
  model_dir: str,
  reader: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  data: sources.SeqioSource,
  recipe: recipe_lib.Recipe,
  stage: int,
  initial_checkpoint: str | None = None,
  **given: Any,
) -> Any:
  """T5X's TrainStateInitializer that starts a stage as our trainer does.

  T5X calls its `from_scratch` where the stage has no checkpoint yet: then the
  parameters come from the stage before (or INITIAL_CHECKPOINT), the codec
  from the corpus, and the teacher from stage 1.

  Args:
    model_dir: folder of the whole run.
    reader: the architecture and codec.
    limits: lengths of the inputs.
    data: what the codec's statistics come from.
    recipe: seed, and batches that the codec is fitted to.
    stage: 1, 2 or 3.
    initial_checkpoint: see `start.initial_params`.
    **given: what T5X passes.

  Returns:
    A TrainStateInitializer.

  Raises:
    CheckpointError: there is nothing to start from.
    ValueError: what it is to start from is of another model.
  """
  from t5x import utils

  folder = pathlib.Path(model_dir).absolute()
  # Read and compared now: T5X starts a thread for its data before it calls
  # from_scratch, and an error after that may keep the program from ending.
  previous = source = teacher = None
  if not checkpoints_lib.steps_in(folder / start.stage_name(stage, reader)):
    previous, source = start.previous_params(
      folder, stage, reader, initial_checkpoint
    )
    teacher = start.teacher_params(folder) if stage == 2 else None

  class StageInitializer(utils.TrainStateInitializer):
    """See `stage_initializer`."""

    def from_scratch(self, init_rng):
      nonlocal previous, teacher
      del init_rng  # Ours, so that both trainers start from the same values.
      state = super().from_scratch(jax.random.PRNGKey(recipe.seed))
      if previous is None:
        return state
      fresh = core.unfreeze(state.params)
      old_mutables = core.unfreeze(state.flax_mutables)
      # Whole batches: all processes must find the same statistics.
      batches = data.batches(
        'train',
        limits,
        recipe.batch_size,
        seed=recipe.data_seed(stage),
        shard_index=0,
        num_shards=1,
      )
      params, mutables = start.starting_variables(
        given['init_fn'].__self__,
        fresh,
        old_mutables,
        previous,
        source,
        itertools.islice(batches, recipe.codec_fit_batches),
        teacher,
        recipe.codec_prediction,
      )
      previous = teacher = None  # Frees them.
      state = state.replace_params(core.freeze(state_lib.place(params, fresh)))
      return state.replace_flax_mutables(
        core.freeze(state_lib.place(mutables, old_mutables))
      )

  initializer = StageInitializer(**given)
  if previous is not None:
    abstract = initializer.global_train_state_shape.params
    state_lib.merge_params(core.unfreeze(abstract), previous, source)
  return initializer
