"""The reader: encoder, token codec and decoder under one parameter tree.

Three modes of encoding share the parameters (but for the codec's):

  joint       all encoder layers over [question ; passage]      (Atlas, FiD)
  decomposed  layers 0..k-1 apart, k..n-1 over both             (DeFormer)
  binary      as decomposed, the passage's states replaced by
              what its bits say                                 (BTR)
"""

from __future__ import annotations

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax import config as config_lib
from btr_jax.models import codecs, layers, token_codec
from btr_jax.models import decoder as decoder_lib
from btr_jax.models import encoder as encoder_lib
from btr_jax.models import merging as merging_lib

PAD_ID = 0


@struct.dataclass
class Encoded:
  """What the decoder reads, and what the losses need.

  Attributes:
    states: encoder output of all passages of a question, one after another.
    mask: real tokens; nothing of a missing passage is real.
    trace: of the upper layers, if it was asked for.
    recovery: mean recovery error of the codec, if it was asked for.
    tokens: what each state stands for, if tokens are merged.
  """

  states: Float[Array, 'batch memory embed']
  mask: Bool[Array, 'batch memory']
  trace: encoder_lib.UpperTrace | None = None
  recovery: Float[Array, ''] | None = None
  tokens: merging_lib.Tokens | None = None


class Reader(nn.Module):
  """A Fusion-in-Decoder reader with the decomposed, binarized encoder."""

  config: config_lib.ReaderConfig

  def setup(self):
    cfg = self.config
    self.token_embedder = layers.Embedding(
      cfg.vocab_size, cfg.embed_dim, jnp.dtype(cfg.dtype)
    )
    self.encoder = encoder_lib.Encoder(cfg)
    self.decoder = decoder_lib.Decoder(cfg, self.token_embedder)
    self.codec = codecs.make_codec(cfg)

  def passage_states(
    self,
    passage_tokens: Int[Array, 'sequences length'],
    deterministic: bool = True,
  ) -> Float[Array, 'sequences length embed']:
    """The lower layers over passages (or questions) alone."""
    embedded = self.token_embedder(passage_tokens)
    return self.encoder.lower(embedded, passage_tokens != PAD_ID, deterministic)

  def pack_passages(
    self, passage_tokens: Int[Array, 'sequences length']
  ) -> token_codec.PackedCode:
    """Passages to the bytes that the cache stores."""
    states = self.passage_states(passage_tokens)
    code = self.codec.encode(
      states, passage_tokens, self.encoder.split_norm_scale()
    )
    return self.codec.pack(code)

  def _recovery(self, code, states, passage_tokens):
    """The codec's mean recovery error over real tokens."""
    norm_scale = self.encoder.split_norm_scale()
    errors = self.codec.recovery_error(code, states, passage_tokens, norm_scale)
    real = (passage_tokens != PAD_ID).astype(jnp.float32)
    return jnp.sum(errors * real) / jnp.maximum(jnp.sum(real), 1.0)

  def encode(
    self,
    question_tokens: Int[Array, 'batch question_length'],
    passage_tokens: Int[Array, 'batch passages passage_length'],
    mode: str,
    packed: token_codec.PackedCode | None = None,
    deterministic: bool = True,
    trace: bool = False,
    merging: config_lib.MergingConfig = config_lib.NO_MERGING,
    recover: bool = True,
    beta: Float[Array, ''] | None = None,
    tokens_at_once: int | None = None,
  ) -> Encoded:
    """Encodes a question with its passages.

    Args:
      question_tokens: padded on the left with 0.
      passage_tokens: padded on the right with 0; all 0 for no passage.
      mode: `joint`, `decomposed` or `binary`.
      packed: the passages' cached bytes [batch, passages, passage_length, n],
        for mode `binary`; without them the lower layers run here.
      deterministic: no dropout.
      trace: also return what distillation needs.
      merging: which tokens to merge; in inference only.
      recover: whether the codec also tells its recovery error.
      beta: of annealed signs, in training only (`TokenCodec.encode`).
      tokens_at_once: of whole passages, that are read together at most; None
        reads all. In inference only: neither trace nor dropout.

    Returns:
      Encoded, with `recovery` set where the codec ran here and was to tell it.

    Raises:
      ValueError: unknown mode, or cached bytes for another mode.
    """
    config_lib.check_choice('mode', mode, config_lib.MODES)
    if packed is not None and mode != 'binary':
      raise ValueError(
        f'Cached bits were given to mode {mode!r}; only mode binary reads them.'
      )
    batch, num_passages, passage_length = passage_tokens.shape
    question_length = question_tokens.shape[1]
    tokens = encoder_lib.join_segments(question_tokens, passage_tokens)
    flat_passages = passage_tokens.reshape(-1, passage_length)
    mask = tokens != PAD_ID
    code, recovery, reading = None, None, None

    if mode == 'joint':
      states = self.encoder.by_groups(
        lambda encoder, *few: encoder.lower(*few, deterministic),
        (self.token_embedder(tokens), mask),
        tokens_at_once,
      )
    else:
      if packed is None:
        passages = self.encoder.by_groups(
          lambda encoder, *few: encoder.lower(*few, deterministic),
          (self.token_embedder(flat_passages), flat_passages != PAD_ID),
          tokens_at_once,
        )
        if mode == 'binary':
          code = self.codec.encode(
            passages, flat_passages, self.encoder.split_norm_scale(), beta
          )
          if recover:
            recovery = self._recovery(code, passages, flat_passages)
      else:
        # Not -1: a codec may store no scale, an array of no bytes.
        rows = (batch * num_passages, passage_length)
        flat = token_codec.PackedCode(
          packed.bits.reshape(rows + packed.bits.shape[3:]),
          packed.scale.reshape(rows + packed.scale.shape[3:]),
        )
        code = self.codec.unpack(flat)
      question = self.passage_states(question_tokens, deterministic)

      def after_question(question, passages):
        split = (batch, num_passages, passage_length, -1)
        passages = passages.astype(question.dtype).reshape(split)
        return encoder_lib.join_segments(question, passages)

      if code is not None:
        passages = self.codec.decode(
          code, flat_passages, self.encoder.split_norm_scale()
        )
        reading = self.codec.reading(code)
        if reading is not None:
          reading = after_question(self.encoder.split_norm(question), reading)
      states = after_question(question, passages)

    upper_trace, tokens = None, None
    if merging.intra_ratio or merging.cross_ratio:
      tokens = merging_lib.Tokens.unmerged(mask, question_length)
    if merging.intra_ratio:
      output, tokens = self.encoder.by_groups(
        lambda encoder, states, tokens, reading: encoder.upper_merging(
          states, tokens, question_length, merging, reading
        ),
        (states, tokens, reading),
        tokens_at_once,
      )
      mask = tokens.kinds != merging_lib.PADDING
    else:
      output, upper_trace = self.encoder.by_groups(
        lambda encoder, states, mask, reading: encoder.upper(
          states,
          mask,
          deterministic,
          question_length if trace else None,
          reading,
        ),
        (states, mask, reading),
        tokens_at_once,
      )
    # The decoder sees nothing of a missing passage, its question included.
    mask = mask & jnp.any(flat_passages != PAD_ID, axis=-1, keepdims=True)
    if tokens is not None:
      kinds = jnp.where(mask, tokens.kinds, merging_lib.PADDING)
      tokens = tokens.replace(kinds=kinds)

    def per_question(leaf):
      # [batch * passages, length, ...] -> [batch, passages * length, ...]
      return leaf.reshape((batch, -1) + leaf.shape[2:])

    return Encoded(
      states=layers.constrain_states(per_question(output)),
      mask=per_question(mask),
      trace=upper_trace,
      recovery=recovery,
      tokens=None if tokens is None else jax.tree.map(per_question, tokens),
    )

  def __call__(
    self,
    question_tokens: Int[Array, 'batch question_length'],
    passage_tokens: Int[Array, 'batch passages passage_length'],
    decoder_input_tokens: Int[Array, 'batch answer_length'],
    mode: str,
    packed: token_codec.PackedCode | None = None,
    deterministic: bool = True,
    trace: bool = False,
    recover: bool = True,
    beta: Float[Array, ''] | None = None,
  ) -> tuple[Float[Array, 'batch answer_length vocab'], Encoded]:
    """Logits of the answer under teacher forcing, and the encoding."""
    encoded = self.encode(
      question_tokens,
      passage_tokens,
      mode,
      packed,
      deterministic=deterministic,
      trace=trace,
      recover=recover,
      beta=beta,
    )
    logits = self.decoder(
      encoded.states, encoded.mask, decoder_input_tokens, deterministic
    )
    return logits, encoded

  def decode_all(
    self,
    states: Float[Array, 'batch memory embed'],
    mask: Bool[Array, 'batch memory'],
    decoder_input_tokens: Int[Array, 'batch answer_length'],
  ) -> Float[Array, 'batch answer_length vocab']:
    """Logits of an answer that is given, over a memory that is given."""
    return self.decoder(states, mask, decoder_input_tokens)

  def start_decoding(
    self,
    encoded: Encoded,
    max_length: int,
    inference: config_lib.InferenceConfig,
  ) -> tuple[decoder_lib.SelfAttentionCache, decoder_lib.Constants]:
    """What decoding begins with; see `Decoder.start`."""
    return self.decoder.start(
      encoded.states, encoded.mask, max_length, inference, encoded.tokens
    )

  def decode_step(
    self,
    cache: decoder_lib.SelfAttentionCache,
    constants: decoder_lib.Constants,
    tokens: Int[Array, 'batch beams'],
    step: Int[Array, ''],
  ) -> tuple[Float[Array, 'batch beams vocab'], decoder_lib.SelfAttentionCache]:
    """Logits of the next token of each beam."""
    return self.decoder.step(cache, constants, tokens, step)
