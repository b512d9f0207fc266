"""Tools: their schemas, their arguments, and what goes wrong in them."""

import enum
import functools
import threading
from typing import Annotated, Literal

import pytest
from agent_kit import Scripted, calls
from pydantic import BaseModel, Field

from agentstore import ConfigurationError
from agentstore.agent import Agent
from agentstore.tools import Tool

pytestmark = pytest.mark.anyio


class Point(BaseModel):
    x: int
    y: int = 0


class Colour(enum.Enum):
    RED = "red"


def weather(city: str, unit: Literal["C", "F"] = "C", days: Annotated[int, Field(ge=1, description="how many")] = 1):
    """Tell the weather.

    It is a guess.

    Args:
        city: Where.
        unit: Celsius or Fahrenheit.
    """
    return f"{city} {days} {unit}"


def test_the_schema_comes_from_the_signature_and_the_docstring():
    tool = Tool.of(weather)
    assert (tool.name, tool.description) == ("weather", "Tell the weather.\n\nIt is a guess.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C", "description": "Celsius or Fahrenheit."},
            "days": {"type": "integer", "minimum": 1, "default": 1, "description": "how many"},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert Tool.of(lambda_free).parameters["properties"] == {}


def lambda_free():
    return None


def odd(model_config, /, schema: Point, *, self: Colour = Colour.RED, copy=object()):  # noqa: B008
    return [model_config, schema.x, self.value]


async def test_a_parameter_may_have_any_name_and_kind():
    assert list(Tool.of(odd).parameters["properties"]) == ["model_config", "schema", "self", "copy"]
    assert await Tool.of(odd).run('{"model_config": "m", "schema": {"x": "1"}}') == '["m",1,"red"]'


def takes_anything(**anything):
    return anything


def takes_any(*things):
    return things


@pytest.mark.parametrize("function", [3, lambda: 1, takes_anything, takes_any])
def test_what_cannot_be_a_tool(function):
    with pytest.raises(ConfigurationError):
        Agent("A", model="offline", tools=[function])


async def test_a_partial_is_a_tool():
    tool = Tool.of(functools.partial(weather, "Rome", unit="F"))
    assert (tool.name, tool.description[:4]) == ("weather", "Tell")
    assert "city" not in tool.parameters["properties"]
    assert await tool.run("{}") == "Rome 1 F"


def test_types_without_a_schema_are_refused_at_once():
    def bad(lock: threading.Event):
        return lock

    def unknown(x: "Nowhere"):  # noqa: F821
        return x

    for function in (bad, unknown):
        with pytest.raises(ConfigurationError, match=function.__name__):
            Tool.of(function)


def test_tools_need_distinct_names_and_a_list():
    with pytest.raises(ConfigurationError, match="weather"):
        Agent("A", model="offline", tools=[weather, weather])
    with pytest.raises(ConfigurationError, match="list"):
        Agent("A", model="offline", tools=weather)


class Thing:
    def method(self, a: int):
        return a

    async def amethod(self, a: int):
        return a


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as is", "as is"),
        (None, "null"),
        ({"a": [1]}, '{"a":[1]}'),
        (Point(x=1), '{"x":1,"y":0}'),
        ("\ud800", "\ud800"),
    ],
)
async def test_a_result_is_text_or_json(result, text):
    def give():
        return result

    async def agive():
        return result

    assert await Tool.of(give).run("") == await Tool.of(agive).run("{}") == text


async def test_methods_are_tools():
    assert await Tool.of(Thing().method).run('{"a": 1}') == await Tool.of(Thing().amethod).run('{"a": 1}') == "1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "Invalid JSON"),
        ("[]", "an object"),
        ("{}", "city: Field required"),
        ('{"city": 1}', "city: Input should be a valid string"),
        ('{"city": "x", "nonsense": 1}', "nonsense: Extra inputs"),
        ('{"city": "x", "days": 0}', "days: Input should be greater"),
        ('{"city": "\ud800"}', "Error"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(arguments, says):
    answer = await Tool.of(weather).run(arguments)
    assert answer.startswith("Error: ")
    assert says in answer


async def test_a_tool_that_raises_is_told_to_the_model():
    def broken():
        raise KeyError("x")

    async def abroken():
        raise SystemError("y")

    def unserialisable():
        return object()

    assert await Tool.of(broken).run("") == "Error: KeyError: 'x'"
    assert await Tool.of(abroken).run("") == "Error: SystemError: y"
    assert (await Tool.of(unserialisable).run("")).startswith("Error: PydanticSerializationError")


async def test_a_result_that_cannot_be_kept_is_told_to_the_model(database):
    def huge():
        return "x" * (8 * 2**20 + 1)

    model = Scripted(calls(("huge", "")), "too much")
    assert await Agent("A", model=model, db=database, session_id="s", tools=[huge]).achat("go") == "too much"
    assert "8,388,609 bytes" in (await database.messages("s"))[2].content
