"""Windows hold what they must, and are drawn the same for the same seed."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from btr_jax.data import records
from btr_jax.data.benchmarks import windows

WORDS = st.text('abcdefgh', min_size=1, max_size=6)


@given(
  before=st.lists(WORDS, max_size=40),
  answer=st.lists(
    st.text('XYZ', min_size=1, max_size=4), min_size=1, max_size=4
  ),
  after=st.lists(WORDS, max_size=40),
  size=st.integers(4, 20),
  seed=st.integers(0, 9),
)
def test_a_window_holds_the_answer(before, answer, after, size, seed):
  text = ' '.join([*before, *answer, *after])
  window = windows.around(
    text, ' '.join(answer), size, np.random.default_rng(seed)
  )
  assert ' '.join(answer) in window
  assert window in text
  count = len(before) + len(answer) + len(after)
  assert len(window.split()) == min(size, count)


def test_every_place_of_the_answer_occurs():
  text = ' '.join(['a'] * 20 + ['Lima'] + ['b'] * 20)
  rng = np.random.default_rng(0)
  places = {
    windows.around(text, 'Lima', 5, rng).split().index('Lima')
    for _ in range(200)
  }
  assert places == {0, 1, 2, 3, 4}


def test_no_answer_no_window():
  rng = np.random.default_rng(0)
  assert windows.around('a b c', 'Lima', 5, rng) is None
  assert windows.around('one two three four', 'one two three', 2, rng) is None


def _record(index, right=True, wrong=True):
  contexts = [records.Context('0', 'T', 'x y z', has_answer=None)]
  if right:
    text = 'filler ' * 30 + 'the capital is Lima today ' + 'filler ' * 30
    contexts.append(records.Context('1', 'Peru', text, has_answer=True))
  if wrong:
    text = ' '.join(f'w{i}' for i in range(50))
    contexts.append(records.Context('2', 'Chile', text, has_answer=False))
  return records.Record(
    str(index), 'q?', ('Ciudad de los Reyes', 'Lima'), tuple(contexts)
  )


def test_two_windows_of_each_question_that_has_them():
  given_records = [
    *(_record(i) for i in range(20)),
    _record(20, right=False),
    _record(21, wrong=False),
  ]
  found = list(windows.draw(given_records, 8, 5, seed=3))
  assert [record.id for record in found] == [str(i) for i in range(20)]
  for record in found:
    assert record.answers == ('Lima',)  # The other stands in no passage.
    assert {c.has_answer for c in record.contexts} == {True, False}
    for context in record.contexts:
      assert len(context.text.split()) == 8
      assert ('Lima' in context.text) == context.has_answer
  assert len({record.contexts[0].has_answer for record in found}) == 2
  assert found == list(windows.draw(given_records, 8, 5, seed=3))
  assert found != list(windows.draw(given_records, 8, 5, seed=4))


def test_an_answer_too_far_down_does_not_count():
  assert not list(windows.draw([_record(0)], 8, 1, seed=0))
