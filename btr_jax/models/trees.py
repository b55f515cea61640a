"""Nested parameters by their names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import traverse_util


def flat_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters by 'encoder/layers_0/...' name."""
  return traverse_util.flatten_dict(dict(params), sep='/')


def nested_params(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flat_params`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')
