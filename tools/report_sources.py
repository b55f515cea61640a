"""Systems that are no reader of a family, each loaded when its row is reached.

A missing package or a missing model costs its row, which says so.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import importlib
import json
import pathlib
import time
from typing import Any, Protocol, runtime_checkable

from btr_jax.data import records
from btr_jax.evaluation.study import settings
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import common, report_rows, report_task
from btr_jax.tools import progress as progress_lib

# What a decoder-only model reads at most; more did not fit into the paper's.
_LANGUAGE_MODEL_PASSAGES = 5


@runtime_checkable
class Answers(Protocol):
  """What a system has to do to stand in a report."""

  def answer(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[records.Passage]],
  ) -> list[str]:
    """One answer per question, from its passages."""


def module(name: str) -> Any:
  """A module that not every installation has.

  Raises:
    NotRun: it, or a package that it needs, is missing.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise report_rows.NotRun(
      f'{error.name or name} is missing from this installation.'
    ) from error


class Kept:
  """A source that has nothing to put away."""

  def finished(self, setting: settings.Setting) -> None:
    """Does nothing."""


class Missing(Kept):
  """A system that cannot run here."""

  def __init__(self, reason: str):
    self._reason = reason

  def fingerprint(self, setting: settings.Setting) -> str:
    """Raises NotRun."""
    raise report_rows.NotRun(self._reason)

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Raises NotRun."""
    raise report_rows.NotRun(self._reason)


@dataclasses.dataclass(frozen=True)
class _Answer:
  text: str
  timings: engine_lib.Timings


class AnswersEngine:
  """Makes an `Answers` read records, as throughput and scores need it."""

  compile_seconds = 0.0  # By the warm-up, which is not counted.

  def __init__(self, answers: Answers, num_passages: int):
    self._answers = answers
    self._num_passages = num_passages

  def read(self, asked: Sequence[records.Record]) -> list[_Answer]:
    """One answer per record."""
    start = time.perf_counter()
    texts = self._answers.answer(
      [record.question for record in asked],
      [
        [context.passage for context in record.contexts[: self._num_passages]]
        for record in asked
      ],
    )
    timings = engine_lib.Timings(0.0, 0.0, 0.0, time.perf_counter() - start)
    return [_Answer(text, timings) for text in texts]


def fingerprint_of_files(path: pathlib.Path) -> str:
  """SHA-256 over the names and contents of a file, or of a folder's files."""
  digest = hashlib.sha256()
  files = [path]
  if path.is_dir():
    files = sorted(p for p in path.rglob('*') if p.is_file())
  for file in files:
    digest.update(file.name.encode())
    with open(file, 'rb') as opened:
      digest.update(hashlib.file_digest(opened, 'sha256').digest())
  return digest.hexdigest()


class LanguageModelSource(Kept):
  """A decoder-only model that reads the first passages as a prompt."""

  def __init__(self, path: pathlib.Path, lora: pathlib.Path | None, batch: int):
    self._path = path
    self._lora = lora
    self._batch = batch

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of its files, and those of its LoRA matrices."""
    del setting
    module('btr_jax.baselines.language_model.reader')
    model = fingerprint_of_files(self._path)
    if self._lora is None:
      return model
    return settings.fingerprint([model, fingerprint_of_files(self._lora)])

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Loads it."""
    reader_lib = module('btr_jax.baselines.language_model.reader')
    prompt_lib = module('btr_jax.baselines.language_model.prompt')
    passages = min(setting.passages, _LANGUAGE_MODEL_PASSAGES)
    load = reader_lib.LanguageModelReader.from_folder
    if self._path.is_file():
      load = reader_lib.LanguageModelReader.from_gguf
    reader = load(
      self._path,
      prompt=prompt_lib.PromptConfig(num_passages=passages),
      answer=reader_lib.AnswerConfig(batch_size=self._batch),
    )
    if self._lora is not None:
      files = module('btr_jax.baselines.language_model.lora_files')
      reader = reader.with_lora(*files.load(self._lora, reader.config))
    return report_rows.Running(
      AnswersEngine(reader, passages),
      reader.stored_bytes,
      details={
        'model': self._path.name,
        'lora': None if self._lora is None else self._lora.name,
        'passages': passages,
        'style': reader.prompt.style,
      },
    )


class PhraseSource(Kept):
  """Phrases of the corpus, found without a reader and without passages."""

  def __init__(self, path: pathlib.Path, task: report_task.Task):
    self._path = path
    self._task = task

  def _fingerprint(self) -> str:
    return settings.fingerprint(
      [fingerprint_of_files(self._path), self._task.corpus.fingerprint]
    )

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of the vectors and the corpus."""
    del setting
    module('btr_jax.baselines.phrases.system')
    return self._fingerprint()

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Indexes the corpus, or opens its index."""
    files = module('btr_jax.baselines.phrases.files')
    index_lib = module('btr_jax.baselines.phrases.index')
    system_lib = module('btr_jax.baselines.phrases.system')
    module('faiss')
    folder = common.data_folder() / 'phrases' / self._fingerprint()[:16]
    if not (folder / index_lib.SETTINGS_FILE).is_file():
      with progress_lib.Progress('phrase index') as progress:
        index_lib.build(
          folder,
          files.load(self._path),
          self._task.corpus.passages,
          index_lib.IndexConfig(),
          progress,
        )
    system = system_lib.PhraseSystem.load(self._path, folder)
    made = json.loads((folder / index_lib.SETTINGS_FILE).read_text())
    return report_rows.Running(
      AnswersEngine(_WithoutPassages(system), setting.passages),
      sum(f.stat().st_size for f in self._path.glob('*.safetensors')),
      # Its tokens are other ones than those of the readers.
      bytes_per_token=None,
      store_bytes=system.index_bytes,
      details={'index': made},
    )


class _WithoutPassages:
  """A system that finds answers by itself."""

  def __init__(self, system: Any):
    self._system = system

  def answer(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[records.Passage]],
  ) -> list[str]:
    """One answer per question, whatever was retrieved for it."""
    del passages
    return self._system.answer(questions)


class SpanSource(Kept):
  """A span reader, joint or with binary passage tokens from a cache."""

  def __init__(self, path: pathlib.Path, task: report_task.Task):
    self._path = path
    self._task = task

  def _load(self, setting: settings.Setting) -> Any:
    evaluation = module('btr_jax.baselines.span_reader.evaluation')
    mode = 'joint' if setting.system == settings.SPAN_JOINT else 'binary'
    return evaluation.reader_of(self._path, mode)

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of the reader of its mode."""
    return self._load(setting).fingerprint

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Loads it, and builds its cache if it is missing."""
    reader = self._load(setting)
    if setting.system == settings.SPAN_BINARY:
      asked = [
        [c.passage for c in record.contexts[: setting.passages]]
        for record in self._task.records
      ]
      key = settings.fingerprint(
        [reader.fingerprint, self._task.fingerprint, setting.passages]
      )
      folder = common.data_folder() / 'caches' / f'span-{key[:16]}'
      reader.use_cache(folder, asked)
    return report_rows.Running(
      AnswersEngine(reader, setting.passages),
      reader.model_bytes,
      **report_rows.of_cache(reader.storage()),
      details={'mode': reader.mode, 'provenance': dict(reader.provenance)},
    )
