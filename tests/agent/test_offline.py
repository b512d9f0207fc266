"""The offline model: it knows what it was told, and says what it is."""

import pytest

from agentstore import Message
from agentstore.agent import Agent
from agentstore.llm.offline import OfflineModel


def talk(*prompts):
    agent = Agent("A", "instructions", model="offline")
    return [agent.chat(prompt) for prompt in prompts][-1]


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("My name is Alice", "Alice"),
        ("hello, my name is Mary Ann, and you?", "Mary Ann"),
        ("call me Ishmael.", "Ishmael"),
        ("I am Zoë and I like tea", "Zoë"),
        ("I'm Bob!", "Bob"),
        ("I\u2019m Bob", "Bob"),
        ("my name is al. No: my name is bo", "bo"),
    ],
)
@pytest.mark.parametrize("asked", ["What's my name?", "what is my name", "Who am I?", "do you know my name?"])
def test_it_knows_a_name_it_was_told(told, name, asked):
    assert talk(told, "some more", asked) == f"Your name is {name}."


def test_it_knows_no_name_it_was_not_told():
    assert talk("I am tired", "What\u2019s my name?") == "You have not told me your name."


def test_favourites():
    assert talk("my favourite colour is dark blue.", "what's my favourite colour?") == (
        "Your favourite colour is dark blue."
    )
    assert talk("My favorite food is rice", "My favorite food is soup", "What is my favourite food?") == (
        "Your favourite food is soup."
    )
    assert talk("hello", "what is my favourite food?") == "You have not told me your favourite food."


def test_things_to_remember():
    assert talk(
        "remember that the key is under the mat", "Remember that we meet at 5!", "what did I ask you to remember?"
    ) == ("You asked me to remember: the key is under the mat; we meet at 5.")


def test_what_was_said():
    assert talk("one", "two", "What did I say first?") == 'What you said first was: "one"'
    assert talk("one", "two", "what was my last message?") == 'What you said last was: "two"'
    assert talk("what did I say first?") == "This is the first thing you say to me."
    assert talk("one", "how many messages are there?") == "I see 3 messages, this one included."


def test_it_says_what_it_is():
    answer = talk("I am Ann", "Hello there")
    assert answer.startswith("Hello, Ann! I am the offline model")
    assert answer.endswith('You said: "Hello there"')


def test_it_streams_word_by_word():
    agent = Agent("A", model="offline")
    pieces = list(agent.stream("my name is Ann"))
    assert pieces == ["I", " will", " remember:", " your", " name", " is", " Ann."]
    assert agent.history()[-1].content == "".join(pieces)


@pytest.mark.anyio
async def test_it_answers_an_empty_conversation():
    assert "offline model" in (await OfflineModel().complete([Message("system", "x")], [])).content
