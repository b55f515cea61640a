"""One variant, trained and asked."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import time
from typing import Any

from btr_jax.models import model as model_lib
from btr_jax.models import reader_files, token_codec
from btr_jax.training import loop as loop_lib
from btr_jax.training import runner, stages, start
from btr_jax.training.study import answers, variants


def run_one(
  variant: variants.Variant,
  arguments: Mapping[str, Any],
  start_from: pathlib.Path,
  folder: pathlib.Path,
  questions: answers.Questions,
  stop: loop_lib.StopSignal,
) -> dict[str, Any] | None:
  """Trains a variant, or goes on with it, and evaluates it.

  Args:
    variant: what is trained.
    arguments: of `training_arguments`.
    start_from: reader or family directory.
    folder: of the run.
    questions: to answer.
    stop: ends the training early.

  Returns:
    `variant`, `seed`, `values`, `scores` by question as text, seconds, and of
    stage 3 `bytes_per_token`; None if it was ended early.

  Raises:
    ValueError: see `runner.train` and `evaluate`.
  """
  began = time.monotonic()
  finished = runner.train(
    **{
      **arguments,
      'model_dir': str(folder),
      'initial_checkpoint': str(start_from),
      'stop': stop,
    }
  )
  if not finished:
    return None
  trained = time.monotonic()
  stage = arguments['stage']
  name = start.stage_name(stage, arguments['reader'])
  reader = reader_files.load_reader(
    folder / name / stages.READER_FOLDER, mode=model_lib.STAGE_MODES[stage]
  )
  teacher = start.initial_params(start_from, stage)[0] if stage == 2 else None
  found = _answered(reader, stage, arguments, questions, teacher)
  if stage == 3:
    layout = token_codec.codec_layout(reader.config)
    found['bytes_per_token'] = layout.bits_bytes + layout.scale_bytes
  return {
    'variant': variant.name,
    'seed': arguments['recipe'].seed,
    **found,
    'train_seconds': round(trained - began, 1),
  }


def ask_joint(
  path: pathlib.Path,
  given: Mapping[str, Any],
  questions: answers.Questions,
) -> dict[str, Any]:
  """What a joint reader answers, trained elsewhere: a ceiling.

  Args:
    path: reader or family directory.
    given: what the gin configuration binds to `runner.train`.
    questions: to answer.

  Returns:
    As `run_one`, with seed 0 and `train_seconds` None.
  """
  reader = reader_files.load_reader(path, mode=variants.JOINT)
  return {
    'variant': variants.JOINT,
    'seed': 0,
    **_answered(reader, 1, given, questions),
    'train_seconds': None,
  }


def _answered(reader, stage, arguments, questions, teacher=None):
  began = time.monotonic()
  values, scores = answers.evaluate(
    reader, stage, arguments, questions, teacher
  )
  return {
    'values': values,
    # As text: a line of the record for all questions.
    'scores': {
      name: ' '.join(f'{score:g}' for score in by_question)
      for name, by_question in scores.items()
    },
    'evaluate_seconds': round(time.monotonic() - began, 1),
  }
