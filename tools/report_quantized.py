"""The row of the joint reader with quantized matrices (Atlas-Q)."""

from __future__ import annotations

import pathlib

from btr_jax import config as config_lib
from btr_jax.evaluation.study import settings
from btr_jax.models import reader_files
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import (
  common,
  corpora,
  report_rows,
  report_sources,
  report_task,
  systems,
)
from btr_jax.tools import progress as progress_lib

_CALIBRATION_QUESTIONS = 64


class QuantizedSource(report_sources.Kept):
  """The joint reader with matrices of 4 or 8 bits; made once, then kept."""

  def __init__(
    self,
    family: pathlib.Path,
    task: report_task.Task,
    calibration: pathlib.Path | None,
  ):
    self._family = family
    self._task = task
    self._calibration = calibration

  def _bits(self, setting: settings.Setting) -> int:
    return int(setting.system.removeprefix('joint-int'))

  def _joint(self) -> reader_files.LoadedReader:
    try:
      return reader_files.load_reader(self._family, mode='joint')
    except reader_files.ReaderFileError as error:
      raise report_rows.NotRun(str(error)) from error

  def _questions(self) -> pathlib.Path:
    """Questions of the training side, which show what the matrices see."""
    if self._calibration is not None:
      return self._calibration
    if self._task.name != corpora.FACTBOOK:
      raise report_rows.NotRun(
        'it needs questions of the training side: --calibration FILE.'
      )
    path = pathlib.Path(corpora.factbook_files().split('train'))
    if not path.is_file():
      raise report_rows.NotRun(f'{path} is missing; give --calibration FILE.')
    return path

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of the joint reader and the questions that it is calibrated by."""
    report_sources.module('btr_jax.tools.quantize_reader')
    return settings.fingerprint(
      [self._joint().whole_fingerprint(), self._stamp(), self._bits(setting)]
    )

  def _stamp(self) -> str:
    path = self._questions()
    if not path.is_file():
      raise report_rows.NotRun(f'--calibration {path}: there is no such file.')
    return report_sources.fingerprint_of_files(path)

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Quantizes the reader, or finds it quantized."""
    key = self.fingerprint(setting)[:12]
    folder = common.data_folder() / 'quantized' / f'{setting.system}-{key}'
    if not (folder / reader_files.READER_FILE).is_file():
      self._make(folder, self._bits(setting))
    reader = reader_files.load_reader(folder, mode='joint')
    # As the joint reader it is held against: keys and values once.
    (system,) = [s for s in systems.UNCACHED if s.name == settings.JOINT]
    engine = engine_lib.Engine(
      reader,
      self._task.corpus.passages,
      mode=system.mode,
      num_passages=setting.passages,
      inference=config_lib.InferenceConfig(system.cross_attention),
    )
    return report_rows.Running(
      engine,
      reader.model_bytes,
      details={'quantization': dict(reader.provenance['quantization'])},
    )

  def _make(self, folder: pathlib.Path, bits: int) -> None:
    readers = report_sources.module('btr_jax.baselines.quantized.readers')
    reader = self._joint()
    batches = report_sources.module(
      'btr_jax.tools.quantize_reader'
    ).calibration_batches(
      reader, str(self._questions()), _CALIBRATION_QUESTIONS, 0
    )
    with progress_lib.Progress(f'quantize to {bits} bits') as progress:
      readers.quantize_reader(
        reader,
        folder,
        readers.QuantizationConfig(bits=bits),
        batches,
        progress=progress,
      )
