"""What the model sees: any history becomes one that every model accepts."""

from agent_kit import told
from hypothesis import given
from hypothesis import strategies as st

from agentstore import Message, ToolCall
from agentstore.view import answer_of, last_prompt, text_of, turn_at, view


def user(text, run="r"):
    return Message("user", text, run_id=run)


def said(text, *call_ids, run="r"):
    return Message("assistant", text, tool_calls=[ToolCall(i, "f", "{}") for i in call_ids], run_id=run)


def result(text, call_id, run="r"):
    return Message("tool", text, tool_call_id=call_id, run_id=run)


def test_instructions_come_first_and_only_if_there_are_any():
    history = [user("a")]
    assert told(view(history, instructions="be kind")) == [("system", "be kind"), ("user", "a")]
    assert told(view(history)) == [("user", "a")]


def test_interleaved_runs_come_apart_in_order_of_first_appearance():
    history = [user("a", "A"), user("b", "B"), said("b2", run="B"), said("a2", run="A"), user("c", "C")]
    assert [m.content for m in view(history)] == ["a", "a2", "b", "b2", "c"]


def test_messages_without_a_run_stay_where_they_are():
    history = [user("1", None), said("2", run=None), user("a", "A"), user("3", None), said("a2", run="A")]
    assert [m.content for m in view(history)] == ["1", "2", "a", "a2", "3"]


def test_a_result_directly_follows_its_call():
    history = [user("a"), said("", "x", "y"), said("meanwhile"), result("y!", "y"), result("x!", "x")]
    assert [m.content for m in view(history)] == ["a", "", "x!", "y!", "meanwhile"]


def test_calls_without_results_and_results_without_calls_are_dropped():
    history = [user("a"), result("stray", "z"), said("", "x", "y"), result("y!", "y"), result("again", "y")]
    shown = view(history)
    assert [m.content for m in shown] == ["a", "", "y!"]
    assert [call.id for call in shown[1].tool_calls] == ["y"]


def test_a_message_left_with_nothing_is_dropped_and_one_with_text_is_kept():
    assert told(view([user("a"), said("", "x"), said("thinking", "x"), said("")])) == [
        ("user", "a"),
        ("assistant", "thinking"),
    ]


def test_a_result_belongs_to_its_own_run():
    history = [user("a", "A"), said("", "x", run="A"), user("b", "B"), said("", "x", run="B"), result("!", "x", "A")]
    assert [(m.role, m.run_id) for m in view(history)] == [
        ("user", "A"),
        ("assistant", "A"),
        ("tool", "A"),
        ("user", "B"),
    ]


def test_an_id_used_again_in_a_run_means_the_nearest_call():
    history = [user("a"), said("first", "x"), result("1", "x"), said("second", "x"), result("2", "x")]
    assert [m.content for m in view(history)] == ["a", "first", "1", "second", "2"]
    crashed = [user("a"), said("first", "x"), said("second", "x"), result("2", "x")]
    assert [(m.content, len(m.tool_calls)) for m in view(crashed)] == [("a", 0), ("first", 0), ("second", 1), ("2", 0)]


def test_one_id_twice_in_a_message_is_answered_in_order():
    history = [user("a"), said("", "x", "x"), result("1", "x"), result("2", "x")]
    assert [m.content for m in view(history)] == ["a", "", "1", "2"]


def test_the_history_starts_at_a_user_message():
    cut = [result("!", "x"), said("old"), user("a"), said("b")]
    assert [m.content for m in view(cut)] == ["a", "b"]
    assert view([said("old")]) == []


def test_the_turn_is_whole_and_last():
    history = [user("b", "B"), said("b2", run="B")]
    turn = [user("a", "A"), said("", "x", run="A"), result("!", "x", "A")]
    assert [m.content for m in view(history, turn)] == ["b", "b2", "a", "", "!"]


def test_a_turn_ends_where_the_next_prompt_of_its_run_begins():
    history = [user("a"), said("1", "x"), user("b", "B"), result("2", "x"), said("3"), user("c"), said("4")]
    assert [m.content for m in turn_at(history, 0)] == ["a", "1", "2", "3"]
    assert answer_of(turn_at(history, 0)).content == "3"
    assert answer_of([user("a"), said("", "x")]) is None
    assert last_prompt(history) == 5
    assert last_prompt([said("1")]) is None


def test_text_of_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "loose", {"type": "text", "text": "b"}]
    assert text_of(Message("assistant", parts)) == "ab"


RUNS = st.sampled_from([None, "A", "B"])
CALL_IDS = st.sampled_from(["x", "y", ""])


def messages(runs):
    text = st.text(max_size=2)
    return st.one_of(
        st.builds(user, text, runs),
        st.builds(lambda text, ids, run: said(text, *ids, run=run), text, st.lists(CALL_IDS, max_size=3), runs),
        st.builds(result, text, CALL_IDS, runs),
    )


@given(
    st.lists(messages(RUNS), max_size=12), st.lists(messages(st.just("now")), max_size=4), st.sampled_from(["", "do"])
)
def test_any_history_becomes_one_that_a_model_accepts(history, rest, instructions):
    turn = [Message("user", "now", run_id="now"), *rest]
    shown = view(history, turn, instructions)
    assert [m.role for m in shown].count("system") == bool(instructions)
    body = shown[bool(instructions) :]
    assert body[0].role == "user"
    assert turn[0] in body

    waiting = []
    for message in body:
        if message.role == "tool":
            assert waiting.pop(0) == (message.tool_call_id, message.run_id)
        else:
            assert not waiting
            waiting = [(call.id, message.run_id) for call in message.tool_calls]
            assert message.content or waiting or message.role == "user"
    assert not waiting

    given_ids = [message.id for message in (*history, *turn)]
    shown_ids = [message.id for message in body]
    assert len(set(shown_ids)) == len(shown_ids)
    assert set(shown_ids) <= set(given_ids)
    for run in ("A", "B"):
        users = [m.id for m in history if m.run_id == run and m.role == "user"]
        assert [i for i in shown_ids if i in users] == [i for i in users if i in shown_ids]
    assert view(body) == body
