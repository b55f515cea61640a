"""SeqIO vocabularies whose file is found when it is first needed."""

from collections.abc import Callable

import seqio


class LazyVocabulary(seqio.SentencePieceVocabulary):
  """Asks for its model file at each use, so that importing a task is cheap."""

  def __init__(self, find: Callable[[], str], extra_ids: int = 100):
    """Takes what gives the path; it raises where there is none."""
    self._find = find
    super().__init__('', extra_ids=extra_ids)

  @property
  def sentencepiece_model_file(self) -> str:
    path = self._find()
    if path != self._sentencepiece_model_file:
      self._sentencepiece_model_file = path
      self._model = None  # of another file
    return path

  def _model_context(self):
    self.sentencepiece_model_file  # noqa: B018 (resolves the path)
    return super()._model_context()

  def __eq__(self, other) -> bool:
    return self is other or super().__eq__(other)

  __hash__ = seqio.SentencePieceVocabulary.__hash__

  def __str__(self) -> str:
    return f'LazyVocabulary({self._sentencepiece_model_file})'
