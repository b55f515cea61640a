"""`btr export-cache`: joins the other processes, then does what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from btr_jax.training import distributed


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  if argv and argv[0] == 'memmap':
    from btr_jax.tools import memmap_cache

    return memmap_cache.main(argv[1:])
  processes, rest = distributed.split_flags(argv)
  if processes is None:
    from btr_jax.tools import cache_actions

    return cache_actions.main(rest)
  # Before the actions are imported: bm25s, which finds passages, starts JAX as
  # soon as it is imported, and processes can only join before that.
  from btr_jax.tools import cache_jobs

  return cache_jobs.run_together(processes, rest)
