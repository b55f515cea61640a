"""A span reader of two layers with random weights."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest


@pytest.fixture(scope='session')
def untrained(tiny_encoder_folder):
  """On top of the tiny encoder; heads large enough to matter."""
  pytest.importorskip('tokenizers')
  from btr_jax.baselines.span_reader import files

  loaded = files.from_encoder(
    tiny_encoder_folder,
    split_layer=1,
    question_length=16,
    passage_length=40,
    answer_length=12,
  )
  generator = np.random.default_rng(3)

  def louder(leaf):
    noise = generator.standard_normal(leaf.shape)
    return (leaf + 0.5 * noise).astype(np.float32)

  params = dict(loaded.params)
  for group in ('span', 'passage'):
    params[group] = jax.tree.map(louder, params[group])
  codec = dict(params['codec'])
  codec['center'] = louder(codec['center'])
  params['codec'] = codec
  return dataclasses.replace(loaded, params=params, fingerprint='untrained')


@pytest.fixture(scope='session')
def config(untrained):
  return untrained.config


@pytest.fixture(scope='session')
def questions(tiny_records):
  return [record.question for record in tiny_records[:4]]


@pytest.fixture(scope='session')
def passages(tiny_records):
  return [
    [context.passage for context in record.contexts[:3]]
    for record in tiny_records[:4]
  ]
