"""Where scalars end up, with and without TensorFlow."""

from __future__ import annotations

import json

from clu import metrics as clu_metrics
import numpy as np
import pytest

from btr_jax.training import metrics as metrics_lib


def test_jsonl_appends(tmp_path):
  for step in (1, 2):
    with metrics_lib.MetricWriters(
      tmp_path, 'stage1', tensorboard=False
    ) as writers:
      writers.write_scalars(step, {'train/loss': step / 2})
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  assert [(x['step'], x['train/loss']) for x in lines] == [(1, 0.5), (2, 1.0)]


def test_without_tensorflow_the_rest_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics_lib, 'has_tensorboard', lambda: False)
  with metrics_lib.MetricWriters(tmp_path, 'stage1') as writers:
    writers.write_scalars(1, {'train/loss': 0.5})
  assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # TensorFlow's, while it is imported.
def test_tensorboard_files(tmp_path):
  pytest.importorskip('tensorflow')
  pytest.importorskip('tensorboard')
  with metrics_lib.MetricWriters(tmp_path, 'stage1') as writers:
    writers.write_scalars(1, {'train/loss': 0.5})
  events = list((tmp_path / 'tensorboard').iterdir())
  assert len(events) == 1 and events[0].stat().st_size > 50


def test_accumulator_weighs_by_count():
  def metric(total, count):
    return clu_metrics.Average(total=np.float32(total), count=np.float32(count))

  accumulated = metrics_lib.Accumulator()
  first = accumulated.add({'loss': metric(2.0, 1.0), 'rate': np.float32(1.0)})
  accumulated.add({'loss': metric(1.0, 3.0), 'rate': np.float32(0.5)})
  assert first == {'loss': 2.0, 'rate': 1.0}
  assert accumulated.compute() == {'loss': 0.75, 'rate': 0.5}
  accumulated.add({'loss': metric(4.0, 1.0)})
  assert accumulated.compute() == {'loss': 4.0}
