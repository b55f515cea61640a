"""One build by several processes, which JAX's own runtime joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import traceback
from typing import Any

import jax

from btr_jax import cache as cache_lib
from btr_jax.cache import places
from btr_jax.models.reader_files import LoadedReader
from btr_jax.tools import caches, common, corpora


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

  def check(
    self,
    path: str,
    reader: LoadedReader,
    corpus: corpora.Corpus,
    batch_size: int,
  ) -> None:
    """Refuses processes that were told different things.

    Raises:
      ValueError: on all processes, unless they agree on model, corpus, place
        and batch, and see the same folder there.
    """
    if not self.together:
      return
    from btr_jax.training import distributed

    told = caches.fingerprints(reader, corpus) | {
      'cache': path,
      'batch': batch_size,
    }
    distributed.check_agreement('the build', told)
    if not places.is_url(path):
      folder = pathlib.Path(path)
      # The mark stands beside the cache: in it, it would be a stranger.
      folder.parent.mkdir(parents=True, exist_ok=True)
      distributed.check_shared_folder(folder.parent, "--cache's parent")


def split_process_flags(argv: Sequence[str]) -> tuple[Any, list[str]]:
  """Takes the flags of several processes out of a command line."""
  from btr_jax.training import distributed

  return distributed.split_flags(argv)


def run_together(processes: Any, run: Callable[[Job], int]) -> int:
  """Joins the other processes, runs, and ends with them.

  Args:
    processes: of `split_process_flags`.
    run: this process's part.

  Returns:
    The exit code of `run`; an error ends the process, so that the others
    notice and end as well.
  """
  from btr_jax.training import distributed

  try:
    distributed.initialize(processes)
  except distributed.DistributedError as error:
    raise common.UserError(str(error)) from error
  share = cache_lib.Share(jax.process_index(), jax.process_count())
  try:
    code = run(Job(share, together=True))
  except Exception as error:
    if not isinstance(error, common.USER_ERRORS):
      traceback.print_exc()
    common.say(f'process {share.index} of {share.count}:')
    common.fail(error)
    distributed.leave(1)
  distributed.shutdown()
  return code
