"""The dispatcher, help texts and errors."""

from __future__ import annotations

import pytest

from btr_jax.tools import common
from btr_jax.tools import main as main_lib

TOOLS = sorted(set(main_lib.COMMANDS) - {'train'})


def test_help_lists_every_command(capsys):
  assert main_lib.main(['--help']) == 0
  shown = capsys.readouterr().out
  for command in main_lib.COMMANDS:
    assert f'\n  {command} ' in shown


def test_no_command_is_an_error(capsys):
  assert main_lib.main([]) == 2
  assert 'usage: btr' in capsys.readouterr().err


def test_version(capsys):
  assert main_lib.main(['--version']) == 0
  assert capsys.readouterr().out.startswith('btr_jax 0.')


@pytest.mark.parametrize(
  ('typed', 'meant'),
  [
    ('evalute', 'evaluate'),
    ('inspect', 'inspect-cache'),
    ('export_cache', 'export-cache'),
    ('prepare', 'prepare-corpus'),
  ],
)
def test_unknown_command_suggests(typed, meant, capsys):
  assert main_lib.main([typed]) == 2
  error = capsys.readouterr().err
  assert f'did you mean {meant!r}?' in error
  assert error.count('\n') == 1


def test_unknown_command_without_a_likeness(capsys):
  assert main_lib.main(['xyzzy']) == 2
  error = capsys.readouterr().err
  assert 'did you mean' not in error and 'evaluate' in error


@pytest.mark.parametrize('command', TOOLS)
def test_help_has_an_example(command, capsys):
  with pytest.raises(SystemExit) as stop:
    main_lib.main([command, '--help'])
  assert stop.value.code == 0
  shown = capsys.readouterr().out
  assert f'usage: btr {command}' in shown
  assert f'example:\n  btr {command}' in shown


@pytest.mark.parametrize('command', TOOLS)
def test_unknown_flag_is_one_message(command, capsys):
  with pytest.raises(SystemExit) as stop:
    main_lib.main([command, '--no-such-flag'])
  assert stop.value.code == 2
  assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize(
  ('raised', 'shown'),
  [
    (common.UserError('do this'), 'error: do this\n'),
    (ValueError('x is 1; expected 2'), 'error: x is 1; expected 2\n'),
    (OSError(28, 'No space left'), 'error: OSError: No space left\n'),
    (
      FileNotFoundError(2, 'No such file', 'a.json'),
      "error: [Errno 2] No such file: 'a.json'\n",
    ),
  ],
)
def test_errors_of_the_caller_are_one_message(raised, shown, capsys):
  def main(argv):
    raise raised

  assert common.run(main, []) == 2
  assert capsys.readouterr().err == shown


def test_faults_of_the_package_keep_their_trace():
  def main(argv):
    raise AssertionError('a fault')

  with pytest.raises(AssertionError):
    common.run(main, [])


def test_a_trace_on_request(monkeypatch):
  def main(argv):
    raise ValueError('x')

  monkeypatch.setenv('BTR_TRACEBACK', '1')
  with pytest.raises(ValueError):
    common.run(main, [])


def test_interrupt(capsys):
  def main(argv):
    raise KeyboardInterrupt

  assert common.run(main, []) == 130
  assert capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('text', ['0', '-1', 'x', '1.5'])
def test_positive_refuses(text):
  import argparse

  assert common.positive('3') == 3
  with pytest.raises(argparse.ArgumentTypeError, match=text):
    common.positive(text)


def test_data_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path))
  assert common.data_folder() == tmp_path
  monkeypatch.delenv('BTR_DATA_DIR')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert common.data_folder() == tmp_path / '.cache' / 'btr_jax'


def test_a_loss_that_is_not_finite_is_one_message(capsys):
  from btr_jax.training import loop

  def diverged(argv):
    raise loop.TrainingDivergedError('The loss is nan at step 3.')

  assert common.run(diverged, []) == 2
  assert capsys.readouterr().err == 'error: The loss is nan at step 3.\n'
