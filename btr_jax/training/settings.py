"""What a run was started with; going on with anything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import jax

from btr_jax.training import checkpoints as checkpoints_lib

SETTINGS_FILE = 'settings.json'
# Settings that decide the shapes of the parameters: no flag overrides these.
_FIXED = ('reader', 'stage')


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat.update(_flat(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat


def check_settings(
  folder: pathlib.Path, settings: Mapping[str, Any], accept_changes: bool
) -> None:
  """Refuses to go on with a run of other settings; writes those of a new one.

  Args:
    folder: the stage folder.
    settings: of this run, JSON values.
    accept_changes: go on although training settings differ; those of the
      reader itself may never differ.

  Raises:
    ValueError: the folder holds another run; the message is the diff.
  """
  path = folder / SETTINGS_FILE
  wanted = _flat(json.loads(json.dumps(settings)))
  if path.is_file():
    try:
      found = _flat(json.loads(path.read_text(encoding='utf-8')))
    except (OSError, ValueError) as error:
      raise ValueError(
        f'Cannot read {path}: {error}. Use another MODEL_DIR, or remove the '
        'folder.'
      ) from error
    absent = '(absent)'
    changed = [
      name
      for name in sorted(set(found) | set(wanted))
      if found.get(name, absent) != wanted.get(name, absent)
    ]
    fatal = [name for name in changed if name.split('.')[0] in _FIXED]
    if fatal or (changed and not accept_changes):
      diff = '\n  '.join(
        f'{name}: found {found.get(name, absent)!r}, '
        f'now {wanted.get(name, absent)!r}'
        for name in changed
      )
      fix = (
        'Use another MODEL_DIR, or take the change back.'
        if fatal
        else 'Use another MODEL_DIR, take the change back, or go on with the '
        'new settings by --gin.ACCEPT_CHANGES=True.'
      )
      raise ValueError(
        f'{folder} holds a run with other settings:\n  {diff}\n{fix}'
      )
    if not changed:
      return
  elif checkpoints_lib.steps_in(folder):
    raise ValueError(
      f'{folder} holds checkpoints but no {SETTINGS_FILE}; expected a folder '
      'that this trainer wrote. Use another MODEL_DIR.'
    )
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints_lib.write_json(path, settings)
