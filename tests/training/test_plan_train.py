"""What a run will cost: counted, and as the compiler says."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest

from btr_jax.config import REMATS
from btr_jax.tools import plan_train
from btr_jax.training import planning

pytestmark = pytest.mark.usefixtures('quick_compilation')


def run(capsys, *argv):
  assert plan_train.main(argv) == 0
  shown = capsys.readouterr().out
  return json.loads(shown.splitlines()[-1]), shown


def test_matrix_products_are_counted_by_hand():
  def program(x, w):
    def one(carry, _):
      return carry @ w, None

    y, _ = jax.lax.scan(one, x, None, length=3)
    return jnp.einsum('ij,kj->ik', y, x)

  x, w = jnp.ones((2, 5)), jnp.ones((5, 5))
  counted = planning.matrix_flops(jax.make_jaxpr(program)(x, w).jaxpr)
  assert counted == 3 * 2 * (2 * 5 * 5) + 2 * (2 * 2 * 5)


def test_recomputation_is_counted(spread_gin, capsys):
  flags = [f'--gin_file={spread_gin}', '--devices=4', '--no-compile']

  def flops(remat):
    plan, _ = run(capsys, *flags, f'--gin.REMAT={remat!r}')
    return plan['stages'][0]['matrix_flops_all_devices']

  nothing, minimal, full = map(flops, REMATS)
  assert nothing < minimal < full < 4 / 3 * nothing


def test_what_the_gradient_keeps(spread_gin, capsys):
  flags = [f'--gin_file={spread_gin}', '--devices=4', '--no-compile']

  def kept(**macros):
    macros = [f'--gin.{name}={value!r}' for name, value in macros.items()]
    plan, _ = run(capsys, *flags, *macros)
    return plan['stages'][0]['bytes']['kept']

  nothing, minimal, full = (kept(REMAT=remat) for remat in REMATS)
  assert full < minimal < nothing
  assert kept(BATCH_SIZE=8) == 2 * nothing
  assert kept(BATCH_SIZE=8, MICROBATCHES=2) == nothing
  assert kept(MESH=(2, 2)) == 2 * nothing


def test_sizes_of_base_without_compiling(capsys):
  plan, shown = run(
    capsys,
    '--gin_file=gin_configs/btr_base.gin',
    '--devices=4',
    '--gin.MESH=(2, 2)',
    '--gin.STAGE=2',
    '--no-compile',
  )
  assert 'stage 2: 247.6 M parameters' in ' '.join(shown.split())
  (stage,) = plan['stages']
  params = stage['total_bytes']['parameters']
  assert params == 4 * stage['parameters']
  # Halves, and the norms whole; the teacher as the parameters.
  assert params / 2 < stage['bytes']['parameters'] < 0.51 * params
  assert stage['bytes']['carried'] == stage['bytes']['parameters']
  assert stage['bytes']['optimizer'] == pytest.approx(
    2 * stage['bytes']['parameters'], rel=1e-3
  )
  assert 'compiled' not in stage


@pytest.mark.slow
def test_the_compiler_agrees(spread_gin, capsys):
  plan, shown = run(capsys, f'--gin_file={spread_gin}', '--devices=4')
  (stage,) = plan['stages']
  compiled = stage['compiled']
  # What goes in is what was counted; what comes out takes its place.
  names = ('parameters', 'optimizer', 'carried', 'batch')
  state = sum(stage['bytes'][name] for name in names) + 4  # The step.
  assert compiled['arguments'] == pytest.approx(state, rel=0.01)
  assert compiled['outputs'] < 0.1 * compiled['arguments']
  assert compiled['peak'] >= compiled['arguments'] + compiled['temporaries']
  assert compiled['flops'] > 0.9 * stage['matrix_flops']
  assert 'temporaries (cpu)' in shown


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--gin.BATCH_SIZE=3'], 'BATCH_SIZE is 3; expected a multiple of 4'),
    (['--gin.MESH=(3, 1)'], r'MESH is \(3, 1\)'),
    (['--gin.STAGE=4'], 'STAGE is 4'),
    (['--gin.BATCH_SIZ=4'], 'mean BATCH_SIZE'),
  ],
)
def test_bad_configurations(spread_gin, flags, message):
  with pytest.raises(ValueError, match=message):
    plan_train.main([f'--gin_file={spread_gin}', '--devices=4', *flags])


def test_too_few_devices_for_this_process(spread_gin):
  count = len(jax.devices()) + 1
  with pytest.raises(Exception, match=f'--devices is {count}, but JAX was'):
    plan_train.main([f'--gin_file={spread_gin}', f'--devices={count}'])


def test_other_flags_are_refused(spread_gin, capsys):
  with pytest.raises(SystemExit):
    plan_train.main([f'--gin_file={spread_gin}', '--batch=3'])
  assert 'unrecognized arguments: --batch=3' in capsys.readouterr().err


def test_what_is_not_trained_takes_no_optimizer(spread_gin, capsys):
  flags = [f'--gin_file={spread_gin}', '--devices=4', '--no-compile']
  flags += ['--gin.STAGE=3']

  def optimizer(*more):
    plan, _ = run(capsys, *flags, *more)
    return plan['stages'][0]['bytes']['optimizer']

  whole = optimizer()
  assert optimizer('--gin.TRAIN_LOWER=False') < whole
  assert optimizer('--gin.ADAPTER_RANK=1') < whole
