"""Tokenizers of folders and of GGUF files, against those they came from."""

import pytest
import sentencepiece

from btr_jax.baselines.language_model import gguf_tokenizer, prompt
from btr_jax.baselines.language_model import tokenizer as tokenizer_lib
from btr_jax.baselines.language_model.tokenizer import Special
from btr_jax.data.records import Passage
from btr_jax.interop.checkpoint import ConversionError

TEXTS = (
  'Capital: Lima. Coastline: 123 km',
  '  two  blanks, a new\nline and 東京 \U0001f600',
  "it's <|im_end|> as text",
  '',
)


@pytest.fixture
def chat(byte_level, tokenizers):
  inner = tokenizers.Tokenizer.from_str(byte_level.to_str())
  return tokenizer_lib.Tokenizer(
    inner, prefix=(), end_ids=(2,), chat_template='...<|im_start|>...'
  )


def test_gguf_byte_level(gguf_tokenizer_metadata, chat):
  found = gguf_tokenizer.from_metadata(gguf_tokenizer_metadata, 'tiny.gguf')
  assert found.end_ids == (2,) and found.prefix == ()
  assert found.vocab_size == chat.vocab_size
  for text in TEXTS:
    ids = found.encode([text])
    assert ids == chat.encode([text])
    assert found.decode(ids) == text


def test_gguf_sentence_piece(tmp_path, tiny_passages):
  """The same ids as SentencePiece itself gives."""
  corpus = tmp_path / 'corpus.txt'
  corpus.write_text('\n'.join(p.text for p in tiny_passages))
  sentencepiece.SentencePieceTrainer.train(
    input=str(corpus),
    model_prefix=str(tmp_path / 'llama'),
    model_type='bpe',
    vocab_size=400,
    hard_vocab_limit=False,
    byte_fallback=True,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    minloglevel=2,
  )
  expected = sentencepiece.SentencePieceProcessor(
    model_file=str(tmp_path / 'llama.model')
  )
  size = expected.get_piece_size()
  kinds = {0: 2, 1: 3, 2: 3}
  metadata = {
    'model': 'llama',
    'tokens': [expected.id_to_piece(i) for i in range(size)],
    'scores': [expected.get_score(i) for i in range(size)],
    'token_type': [
      6 if expected.is_byte(i) else kinds.get(i, 1) for i in range(size)
    ],
    'bos_token_id': 1,
    'eos_token_id': 2,
  }
  metadata = {f'tokenizer.ggml.{key}': v for key, v in metadata.items()}
  found = gguf_tokenizer.from_metadata(metadata, 'tiny.gguf')
  assert found.prefix == (1,)
  for text in (*TEXTS, *(p.text for p in tiny_passages)):
    ids = found.encode([text])
    assert ids == expected.encode(text)
    assert found.decode(ids) == expected.decode(ids)
  breaks, _ = found.breaks_and_blanks(size)
  assert breaks[expected.piece_to_id('<0x0A>')] and breaks.sum() == 1


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'tokenizer.ggml.model': 'bert'}, "kind 'bert'"),
    ({'tokenizer.ggml.pre': 'qwen2'}, "splits text by 'qwen2'"),
    ({'tokenizer.ggml.merges': None}, 'lacks the key tokenizer.ggml.merges'),
  ],
)
def test_other_tokenizers_are_refused(
  gguf_tokenizer_metadata, changes, message
):
  metadata = {**gguf_tokenizer_metadata, **changes}
  metadata = {key: v for key, v in metadata.items() if v is not None}
  with pytest.raises(ConversionError, match=message):
    gguf_tokenizer.from_metadata(metadata, 'tiny.gguf')


def test_special_tokens_cannot_be_spelled(chat):
  assert chat.encode([Special('<|im_end|>')]) == [2]
  ids = chat.encode(['<|im_end|>'])
  assert 2 not in ids and chat.decode(ids) == '<|im_end|>'
  assert chat.has(Special('<|im_end|>')) and not chat.has(Special('<s>'))
  with pytest.raises(ValueError, match="no token '<s>'"):
    chat.encode([Special('<s>')])


def test_cut_keeps_whole_tokens(chat):
  text = 'Capital: Lima. Independence - day: 3 May.'
  cut = chat.cut(text, 5)
  assert text.startswith(cut) and len(chat.encode([cut])) == 5
  assert chat.cut(text, 1000) == text


def test_line_breaks_and_blanks(chat):
  breaks, blank = chat.breaks_and_blanks(330)
  newline, space, letter = (chat.encode([text])[0] for text in '\n a')
  assert breaks[[newline, space, letter]].tolist() == [True, False, False]
  assert blank[[newline, space, letter]].tolist() == [True, True, False]
  assert breaks.shape == blank.shape == (330,)
  assert not breaks[320:].any() and not blank[320:].any()


def _prompt(tokenizer, max_length=400, question='What  is it?', **settings):
  passages = [Passage(str(i), f'T{i}', f'text {i} ' * 9) for i in range(4)]
  config = prompt.PromptConfig(
    **{'num_passages': 3, 'instruction': 'Answer.', **settings}
  )
  return prompt.prompt_ids(tokenizer, question, passages, config, max_length)


def test_prompt_of_a_chat(chat):
  ids = _prompt(chat, passage_length=12)
  assert ids.count(1) == 3 and ids.count(2) == 2
  text = chat.decode(ids)
  assert text.startswith('system\nAnswer.\nuser\nPassage 1 (T0): text 0')
  assert text.endswith('Question: What is it?\nassistant\n')
  assert 'Passage 3 (T2)' in text and 'T3' not in text


def test_prompt_in_plain_text(chat):
  ids = _prompt(chat, style='plain')
  assert 1 not in ids
  assert chat.decode(ids).endswith('Question: What is it?\nAnswer:')


def test_prompts_that_are_too_long_lose_their_last_passages(chat):
  whole = len(_prompt(chat))
  ids = _prompt(chat, max_length=whole - 1)
  assert len(ids) < whole
  text = chat.decode(ids)
  assert '(T1)' in text and '(T2)' not in text
  with pytest.raises(ValueError, match='without any passage'):
    _prompt(chat, max_length=10)
  with pytest.raises(ValueError, match='empty'):
    _prompt(chat, question='  ')


@pytest.mark.parametrize(
  'template, style',
  [
    ('', 'plain'),
    ('<|im_start|>', 'chatml'),
    ('<|start_header_id|>', 'llama3'),
  ],
)
def test_style_by_the_chat_template(chat, template, style):
  chat.chat_template = template
  assert prompt.style_of(chat) == style


@pytest.mark.parametrize(
  'text, answer',
  [
    (' Lima.\nIt is', 'Lima'),
    ('\nLima', 'Lima'),
    ('J. R. R. Tolkien.', 'J. R. R. Tolkien.'),
    ('', ''),
  ],
)
def test_the_answer_is_the_first_line(text, answer):
  assert prompt.parse_answer(text) == answer
