"""Short copying exercises, with which a small reader starts from nothing.

A reader that has never seen text first has to learn to find a place in a
passage and copy from it. Whole passages and five answer tokens per question
teach that slowly. `warm_up` makes training examples short and dense: the
passage is cut to a window, and in a share of them the question is replaced by
a few words of the passage, whose continuation is the answer (self-supervised,
as in a prefix language model). Evaluation examples are left as they are.
"""

import tensorflow as tf

from btr_jax.tasks import preprocessors, randomness

# Words of the passage that stand for the question, and that are asked for.
_CUE_WORDS = (2, 5)
_ASKED_WORDS = 8


def continuation(
  title: str, words: list[str], window: int, draw
) -> tuple[str, str, str]:
  """A cue out of the passage, what follows it, and the text around both.

  Args:
    title: of the passage; part of the cue in two of three cases.
    words: of the passage, at least two.
    window: words of the text that are kept.
    draw: draw(n) gives a random integer below n.

  Returns:
    question, answer, text.
  """
  cue = min(_CUE_WORDS[0] + draw(_CUE_WORDS[1] - 1), len(words) - 1)
  start = cue + draw(max(len(words) - cue - _ASKED_WORDS // 2, 1))
  asked = words[start : start + _ASKED_WORDS]
  question = ' '.join(words[start - cue : start])
  if draw(3):
    question = f'{title} {question}'
  text = around(words, start - cue, start + len(asked), window, draw)
  return question, ' '.join(asked), text


def around(words: list[str], low: int, high: int, window: int, draw) -> str:
  """`window` words, or more, that contain words[low:high]."""
  spare = max(window - (high - low), 0)
  first = max(low - draw(spare + 1), 0)
  return ' '.join(words[first : max(first + window, high)])


def find(words: list[str], wanted: list[str]) -> int | None:
  """Where `wanted` stands among the words, punctuation at its end aside."""
  bare = [word.rstrip('.,;:') for word in words]
  wanted = [word.rstrip('.,;:') for word in wanted]
  for start in range(len(bare) - len(wanted) + 1):
    if bare[start : start + len(wanted)] == wanted:
      return start
  return None


def warm_up(
  dataset: tf.data.Dataset,
  share: float = 0.6,
  window: int = 12,
  words_before: int = 4,
) -> tf.data.Dataset:
  """Shortens training examples and turns a share of them into continuations.

  Comes after `choose_passages` and before `choose_answer`. All passages are
  cut to `window` words; the one that holds the answer around it, with the
  `words_before` that name its field.

  Args:
    dataset: examples with passages.
    share: of continuations; the other examples keep their question.
    window: words per passage.
    words_before: words kept in front of the answer.

  Returns:
    Examples of the same structure.
  """

  def rewrite(question, answers, titles, texts, has_answer, seed):
    draw = randomness.generator(seed)
    texts = [text.decode().split() for text in texts]
    answers = [answer.decode() for answer in answers]
    holding = [i for i, holds in enumerate(has_answer) if holds]
    chosen = holding[0] if holding else 0
    cut = [around(t, 0, 1, window, draw) if t else '' for t in texts]
    continues = draw(1000) < share * 1000
    if texts and continues and len(texts[chosen]) > 1:
      question, answer, cut[chosen] = continuation(
        titles[chosen].decode(), texts[chosen], window, draw
      )
      question, answers = question.encode(), [answer]
    elif holding:
      wanted = answers[0].split()
      start = find(texts[chosen], wanted)
      if start is None:  # A part of a word: keep the whole passage.
        cut[chosen] = ' '.join(texts[chosen])
      else:
        low = max(start - words_before, 0)
        cut[chosen] = around(
          texts[chosen], low, start + len(wanted), window, draw
        )
    return (
      question,
      [answer.encode() for answer in answers],
      titles,
      [text.encode() for text in cut],
    )

  return preprocessors.rewrite_training(dataset, rewrite)
