"""Fusion-in-Decoder as one would write it with Hugging Face's T5 today.

A baseline for speed, on the weights of one of our readers. It needs torch and
transformers, which are imported when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.interop import architecture, names
from btr_jax.models import model as model_lib


class TorchReader:
  """transformers' T5ForConditionalGeneration over fused passages."""

  def __init__(
    self,
    config: config_lib.ReaderConfig,
    params: Mapping[str, Any],
    num_threads: int | None = None,
  ):
    """Copies the weights, less those of the codec.

    Args:
      config: architecture.
      params: nested parameters.
      num_threads: of torch; None leaves torch's choice.

    Raises:
      ModuleNotFoundError: torch or transformers is missing; names the extra.
      ConversionError: an architecture that transformers does not have.
    """
    try:
      import torch
      import transformers
    except ModuleNotFoundError as error:
      raise ModuleNotFoundError(
        f'{error}: the baseline in torch needs torch and transformers '
        "(pip install 'btr_jax[convert]').",
        name=error.name,
      ) from error
    if num_threads:
      torch.set_num_threads(num_threads)
    values = architecture.to_hugging_face(config, 'float32')
    with torch.device('meta'):  # Initializing what is replaced takes minutes.
      model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**values)
      )
      if not config.logits_via_embedding:
        # transformers 5 ties the head even when told not to.
        model.lm_head = torch.nn.Linear(
          config.embed_dim, config.vocab_size, bias=False
        )
    flat = {
      name: np.array(value, np.float32)  # A copy: torch wants to write.
      for name, value in model_lib.flat_params(params).items()
      if not name.startswith('codec/')
    }
    state = {
      name: torch.from_numpy(np.ascontiguousarray(value))
      for name, value in names.to_torch(flat).items()
    }
    shared = state[names.TORCH_EMBEDDING]
    for stack in ('encoder', 'decoder'):
      state[f'{stack}.embed_tokens.weight'] = shared
    state.setdefault(names.TORCH_LOGITS, shared)
    model.load_state_dict(state, assign=True)
    self._torch = torch
    self._outputs = transformers.modeling_outputs.BaseModelOutput
    self._model = model.eval()

  def answer(
    self,
    question_tokens: Int[np.ndarray, 'batch question_length'],
    passage_tokens: Int[np.ndarray, 'batch passages passage_length'],
    max_length: int,
  ) -> Int[np.ndarray, 'batch max_length']:
    """Greedy answers, keys and values of the memory computed once.

    Args:
      question_tokens: padded on the left with 0.
      passage_tokens: padded on the right with 0.
      max_length: tokens at most.

    Returns:
      Token ids, 0 after the end.
    """
    torch = self._torch
    batch, passages, _ = passage_tokens.shape
    question = np.repeat(question_tokens[:, None], passages, axis=1)
    tokens = np.concatenate([question, passage_tokens], axis=-1)
    rows = torch.from_numpy(tokens.reshape(batch * passages, -1)).long()
    with torch.inference_mode():
      memory = self._model.encoder(
        input_ids=rows, attention_mask=(rows != 0).long()
      ).last_hidden_state
      present = np.any(passage_tokens != 0, axis=-1, keepdims=True)
      mask = ((tokens != 0) & present).reshape(batch, -1)
      found = self._model.generate(
        encoder_outputs=self._outputs(
          last_hidden_state=memory.reshape(batch, -1, memory.shape[-1])
        ),
        attention_mask=torch.from_numpy(mask).long(),
        max_new_tokens=max_length,
        do_sample=False,
        num_beams=1,
      )
    answers = np.zeros((batch, max_length), np.int32)
    found = found[:, 1:].numpy()
    answers[:, : found.shape[1]] = found
    return answers
