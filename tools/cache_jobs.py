"""One build by several processes, which JAX's own runtime joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import traceback

import jax

from btr_jax import cache as cache_lib
from btr_jax.cache import places
from btr_jax.tools import common
from btr_jax.training import distributed


@dataclasses.dataclass(frozen=True)
class Job:
  """What this process does of a build.

  Attributes:
    share: the shards that it writes.
    together: the other shares run now, as processes of the same job.
  """

  share: cache_lib.Share = cache_lib.Share()
  together: bool = False

  def label(self, name: str) -> str:
    """The name, and which of several processes it is."""
    if self.share.is_whole:
      return name
    return f'{name} {self.share.index + 1}/{self.share.count}'

  def check(self, path: str, told: Mapping[str, str]) -> None:
    """Refuses processes that were told different things.

    Args:
      path: of the cache.
      told: what must be the same on all.

    Raises:
      ValueError: on all processes, unless they agree, and see the same folder.
    """
    if not self.together:
      return
    distributed.check_agreement('the build', {'cache': path, **told})
    if not places.is_url(path):
      # The mark stands beside the cache: in it, it would be a stranger.
      folder = pathlib.Path(path).absolute().parent
      folder.mkdir(parents=True, exist_ok=True)
      distributed.check_shared_folder(folder, "--cache's parent")


def run_together(
  processes: distributed.DistributedConfig, argv: Sequence[str]
) -> int:
  """Joins the other processes, runs `cache_actions.main`, ends with them.

  Args:
    processes: where they meet.
    argv: arguments of the command.

  Returns:
    The exit code. An error ends the process, so that the others notice and
    end as well.
  """
  try:
    distributed.initialize(processes)
  except distributed.DistributedError as error:
    raise common.UserError(str(error)) from error
  share = cache_lib.Share(jax.process_index(), jax.process_count())
  try:
    from btr_jax.tools import cache_actions  # see export_cache.py

    code = cache_actions.main(argv, Job(share, together=True))
  except SystemExit as end:  # of the parser, which has said why
    distributed.leave(int(end.code or 0))
  except Exception as error:
    if not isinstance(error, common.USER_ERRORS):
      traceback.print_exc()
    common.say(f'process {share.index} of {share.count}:')
    distributed.leave(common.fail(error))
  distributed.shutdown()
  return code
