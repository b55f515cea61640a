"""Variants: what is trained, each in one thing unlike another.

Every variant starts from the same reader, sees the same batches for a seed,
takes as many steps, and answers the same questions. Those of stage 2 start
from the joint reader of a family, which also teaches them, those of stage 3
from its decomposed one. A result depends on its settings alone, so a study goes
on where it was ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from btr_jax import config as config_lib
from btr_jax.evaluation import code_errors
from btr_jax.models import model as model_lib
from btr_jax.models import reader_files
from btr_jax.training.study import answers

# Of codecs: the paper's and ours, and the bits without calibration.
_KINDS = ('calibrated', 'residual', 'sign')
# What stage 3 has where a variant says nothing else, whatever gin binds.
_PAPER = {'binarizer': 'straight_through', 'recovery_weight': 1.0}
_START_MODES = {2: 'joint', 3: 'decomposed'}
# Begins the names of variants that are a setting of a codec.
CODE = 'code '
# The name of a joint reader that answers beside them and is not trained.
JOINT = 'joint'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way to train a stage.

  Attributes:
    name: of the row.
    stage: 2 or 3.
    against: name of the variant that it differs from in one thing.
    codec: the codec, or its kind alone: the configured one if that is of this
      kind, else its defaults; None leaves the configured one.
    wiring: of the calibrated codec, where `codec` is a kind.
    recipe: fields of the recipe that it sets.
  """

  name: str
  stage: int
  against: str | None = None
  codec: str | config_lib.CodecConfig | None = None
  wiring: str = 'recovered'
  recipe: tuple[tuple[str, Any], ...] = ()

  @property
  def slug(self) -> str:
    """The name, for folders."""
    return self.name.replace(', ', '_').replace(' ', '-')


def variants() -> dict[str, Variant]:
  """All variants by name, each behind the one it is compared to."""
  found = []
  for kind in _KINDS:
    annealed = (('binarizer', 'annealed'),)
    without = (('recovery_weight', 0.0),)
    found += [
      Variant(kind, 3, None if kind == _KINDS[0] else _KINDS[0], kind),
      Variant(f'{kind}, annealed', 3, kind, kind, recipe=annealed),
      Variant(f'{kind}, no recovery', 3, kind, kind, recipe=without),
    ]
  found += [
    Variant(
      f'calibrated, wiring {wiring}', 3, 'calibrated', 'calibrated', wiring
    )
    for wiring in config_lib.WIRINGS[1:]
  ]
  first = config_lib.TOKEN_SELECTIONS[0]
  found += [
    Variant(
      f'distill {tokens}',
      2,
      None if tokens == first else f'distill {first}',
      recipe=(('distill_tokens', tokens),),
    )
    for tokens in config_lib.TOKEN_SELECTIONS
  ]
  return {variant.name: variant for variant in found}


def code_variants(
  embed_dim: int, names: Sequence[str] | None = None
) -> dict[str, Variant]:
  """Codecs and their settings, named as by `btr study-codes` behind `CODE`.

  Args:
    embed_dim: of the reader.
    names: of settings; None takes all.

  Raises:
    ValueError: a name that no setting has.
  """
  float_name = f'{CODE}float'
  found = []
  for dial in code_errors.chosen_dials(embed_dim, names):
    name = f'{CODE}{dial.name}'
    how = (('codec_prediction', dial.prediction),)
    against = None if name == float_name else float_name
    found.append(Variant(name, 3, against, dial.codec, recipe=how))
  return {variant.name: variant for variant in found}


def training_arguments(
  variant: Variant, given: Mapping[str, Any], seed: int
) -> dict[str, Any]:
  """What `runner.train` takes for a variant, but for its folder and start.

  Args:
    variant: what is trained.
    given: what the gin configuration binds to `runner.train`.
    seed: of batches, fresh parameters and dropout.

  Returns:
    Arguments by name. A codec of the configured kind stays as configured, one
    of another kind has its defaults.

  Raises:
    ValueError: the variant cannot be trained so.
  """
  reader, recipe = given['reader'], given['recipe']
  codec = reader.codec
  if isinstance(variant.codec, config_lib.CodecConfig):
    codec = variant.codec
  elif variant.codec not in (None, codec.kind):
    codec = config_lib.CodecConfig(variant.codec)
  changes = dict(variant.recipe)
  if variant.stage == 3:
    if variant.codec is not codec:
      codec = dataclasses.replace(codec, wiring=variant.wiring)
    changes = _PAPER | changes
  reader = dataclasses.replace(reader, codec=codec)
  recipe = dataclasses.replace(recipe, seed=seed, **changes)
  # Now, not after hours of other variants.
  model_lib.BtrModel(
    reader,
    given['limits'],
    stage=variant.stage,
    train_lower=recipe.train_lower,
    annealing=recipe.annealing(variant.stage),
  )
  return {
    **given,
    'stage': variant.stage,
    'reader': reader,
    'recipe': recipe,
    'eval_batches': 0,
    'save_period': 0,
    'keep': 1,
    'tensorboard': False,
  }


def fingerprint(
  arguments: Mapping[str, Any],
  start_from: pathlib.Path,
  questions: answers.Questions,
) -> str:
  """SHA-256 of all that a result depends on.

  Args:
    arguments: of `training_arguments`.
    start_from: reader or family directory.
    questions: that are answered.
  """
  stage = arguments['stage']
  folder = reader_files.resolve_family(start_from, _START_MODES[stage], None)
  weights = (folder / reader_files.WEIGHTS_FILE).read_bytes()
  described = {
    'stage': stage,
    'reader': arguments['reader'].to_dict(),
    'limits': arguments['limits'].to_dict(),
    'data': arguments['data'].describe(),
    'recipe': arguments['recipe'].settings(stage),
    'optimizer': dataclasses.asdict(arguments['optimizer']),
    'start': hashlib.sha256(weights).hexdigest(),
    'questions': questions.settings(),
  }
  return _sha(described)


def shared_fingerprint(
  given: Mapping[str, Any],
  start_from: pathlib.Path,
  questions: answers.Questions,
) -> str:
  """SHA-256 of what all rows of a table must have in common.

  Args:
    given: what the gin configuration binds to `runner.train`.
    start_from: reader or family directory.
    questions: that are answered.
  """
  weights = {}
  for mode in sorted(set(_START_MODES.values())):
    try:
      folder = reader_files.resolve_family(start_from, mode, None)
    except reader_files.ReaderFileError:
      continue  # Its variants cannot be trained.
    raw = (folder / reader_files.WEIGHTS_FILE).read_bytes()
    weights[mode] = hashlib.sha256(raw).hexdigest()
  recipe = given['recipe']
  by_stage = [recipe.settings(stage) for stage in _START_MODES]
  return _sha(
    {
      'data': given['data'].describe(),
      'limits': given['limits'].to_dict(),
      'recipe': [{**one, 'seed': None} for one in by_stage],
      'optimizer': dataclasses.asdict(given['optimizer']),
      'start': weights,
      'questions': questions.settings(),
    }
  )


def joint_fingerprint(
  given: Mapping[str, Any], reader: pathlib.Path, questions: answers.Questions
) -> str:
  """SHA-256 of what a joint reader's answers depend on.

  Args:
    given: what the gin configuration binds to `runner.train`.
    reader: reader or family directory.
    questions: that are answered.
  """
  folder = reader_files.resolve_family(reader, JOINT, None)
  weights = (folder / reader_files.WEIGHTS_FILE).read_bytes()
  return _sha(
    {
      'data': given['data'].describe(),
      'limits': questions.limits(given['limits']).to_dict(),
      'reader': hashlib.sha256(weights).hexdigest(),
      'questions': questions.settings(),
    }
  )


def _sha(described):
  text = json.dumps(described, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
