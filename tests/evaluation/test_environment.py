"""The record of where something was measured."""

from __future__ import annotations

import json
import re

from btr_jax.evaluation import environment


def test_environment_is_json_and_complete():
  record = json.loads(json.dumps(environment.environment()))
  assert record['cpu'] and record['cores'] >= 1
  assert record['versions']['jax'] and record['versions']['numpy']
  assert record['thread_settings']['JAX_PLATFORMS']
  assert re.fullmatch(r'\d{4}-\d\d-\d\dT.*', record['date'])


def test_git_commit_is_none_outside_a_checkout(monkeypatch, tmp_path):
  inside = tmp_path / 'btr_jax' / 'evaluation' / 'environment.py'
  monkeypatch.setattr(environment, '__file__', str(inside))
  assert environment.git_commit() is None


def test_git_commit_survives_a_missing_git(monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert environment.git_commit() is None
