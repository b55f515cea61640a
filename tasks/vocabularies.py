"""SeqIO vocabularies whose file is found when it is first needed."""

from collections.abc import Callable

import seqio


class LazyVocabulary(seqio.SentencePieceVocabulary):
  """Asks for its model file at each use, so that importing a task is cheap."""

  def __init__(
    self,
    find: Callable[[], str],
    find_extra_ids: Callable[[], int] = lambda: 100,
  ):
    """Takes what gives the path, which raises where there is none, and the
    number of sentinels."""
    self._find = find
    self._find_extra_ids = find_extra_ids
    super().__init__('', extra_ids=100)

  @property
  def sentencepiece_model_file(self) -> str:
    path, extra_ids = self._find(), self._find_extra_ids()
    if (path, extra_ids) != (self._sentencepiece_model_file, self._extra_ids):
      self._sentencepiece_model_file, self._extra_ids = path, extra_ids
      self._model = None  # of another file
    return path

  @property
  def extra_ids(self) -> int:
    return self._find_extra_ids()

  def _model_context(self):
    self.sentencepiece_model_file  # noqa: B018 (resolves the path)
    return super()._model_context()

  def __eq__(self, other) -> bool:
    return self is other or super().__eq__(other)

  __hash__ = seqio.SentencePieceVocabulary.__hash__

  def __str__(self) -> str:
    return f'LazyVocabulary({self._sentencepiece_model_file})'
