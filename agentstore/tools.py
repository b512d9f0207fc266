"""Plain typed Python functions as tools of a model.

The schema comes from the signature and the docstring; arguments are validated before the function sees them; whatever
goes wrong becomes text for the model, never a crash.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import checks
from .calling import described, must_pass, result_of
from .errors import ConfigurationError
from .records import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel, ValidationError

    from .records import ToolCall

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_ERROR = 10_000  # characters of what is wrong with the arguments
_NO_ARGUMENTS = ("", "null", '""')  # what models write instead of {}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: Its name, for the model.
        description: What its docstring says, without the arguments.
        parameters: The JSON schema of its arguments, an object.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    _function: Callable[..., Any] = field(repr=False)
    _arguments: type[BaseModel] = field(repr=False)
    _positional: int = field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool:
        """The tool that `function` makes.

        Raises:
            ConfigurationError: It is not callable, has no usable name, or its signature has no JSON schema.
        """
        if not callable(function):
            raise ConfigurationError(f"a tool is a function, not {type(function).__name__}")
        named = function.func if isinstance(function, functools.partial) else function
        name = getattr(named, "__name__", type(named).__name__)
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"a tool's name is made of letters, digits, _ and -: not {name!r}", hint="Use def")
        try:
            signature = inspect.signature(function, eval_str=True)
        except (TypeError, ValueError, NameError) as error:
            raise ConfigurationError(f"the signature of the tool {name!r} cannot be read: {error}") from error
        parameters = list(signature.parameters.values())
        description, notes = _documentation(named)
        arguments = _arguments_model(name, parameters, notes)
        positional = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)
        return cls(name, description, _schema(name, arguments), function, arguments, positional)

    async def run(self, arguments: str) -> str:
        """Call the function with a model's JSON text; a sync function runs in a worker thread.

        Returns:
            A str as it is, anything else as JSON. ``Error: ...`` if the arguments are wrong, the function raises (also
            a SystemExit or a CancelledError of its own), or its result cannot be stored. Only a KeyboardInterrupt
            passes, and a cancellation of the task that runs this.
        """
        from pydantic import ValidationError  # noqa: PLC0415  agents without tools need no pydantic

        try:
            text = arguments.strip()
            validated = self._arguments.model_validate_json("{}" if text in _NO_ARGUMENTS else text)
        except ValidationError as error:
            return f"Error: wrong arguments for {self.name}: {_summary(error)}"
        except ValueError as error:  # a lone surrogate
            return f"Error: the arguments for {self.name} cannot be read: {error}"
        values = {name: getattr(validated, place) for place, name in _names(self._arguments)}
        positional = [values.pop(name) for name in list(values)[: self._positional]]
        try:
            return _bounded(_text(await result_of(self._function, *positional, **values)))
        except BaseException as error:
            if must_pass(error):
                raise
            return f"Error: {described(error)}"


def tools_by_name(functions: Iterable[Callable[..., Any]]) -> dict[str, Tool]:
    """The tools that `functions` make.

    Raises:
        ConfigurationError: Two have one name, or one cannot be a tool.
    """
    if callable(functions) or isinstance(functions, str) or not isinstance(functions, Iterable):
        raise ConfigurationError("tools is a list of functions", hint="Write tools=[function]")
    tools: dict[str, Tool] = {}
    for tool in map(Tool.of, functions):
        if tool.name in tools:
            raise ConfigurationError(f"two tools are named {tool.name!r}")
        tools[tool.name] = tool
    return tools


def distinct(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """The calls, with new ids where a server gave none, or one twice."""
    seen: set[str] = set()
    distinct = []
    for call in calls:
        kept = call if call.id and call.id not in seen else replace(call, id=f"call_{new_id()}")
        seen.add(kept.id)
        distinct.append(kept)
    return tuple(distinct)


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What the docstring says of the function, and of each parameter."""
    import docstring_parser  # noqa: PLC0415  likewise

    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    return parsed.description or "", {p.arg_name: p.description for p in parsed.params if p.description}


def _arguments_model(tool: str, parameters: list[inspect.Parameter], notes: dict[str, str]) -> type[BaseModel]:
    """A pydantic model of the arguments. Its fields are numbered, because a parameter may have any name."""
    import pydantic  # noqa: PLC0415

    fields: dict[str, Any] = {}
    for index, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(f"the tool {tool!r} takes {parameter}, which no schema describes")
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        settings: dict[str, Any] = {"alias": parameter.name}
        if parameter.name in notes:
            settings["description"] = notes[parameter.name]
        fields[f"argument{index}"] = (kind, pydantic.Field(default, **settings))
    config = pydantic.ConfigDict(extra="forbid")
    try:
        return pydantic.create_model(tool, __config__=config, **fields)
    except (pydantic.errors.PydanticUserError, NameError, TypeError) as error:
        raise ConfigurationError(f"the arguments of the tool {tool!r} cannot be described: {error}") from error


def _schema(tool: str, arguments: type[BaseModel]) -> dict[str, Any]:
    from pydantic.errors import PydanticUserError  # noqa: PLC0415
    from pydantic.json_schema import GenerateJsonSchema  # noqa: PLC0415

    class Schema(GenerateJsonSchema):
        ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    try:
        schema = arguments.model_json_schema(by_alias=True, schema_generator=Schema)
    except PydanticUserError as error:
        raise ConfigurationError(f"the arguments of the tool {tool!r} have no JSON schema: {error}") from error
    for part in (schema, *schema.get("properties", {}).values()):
        part.pop("title", None)  # it repeats the name
    schema.setdefault("properties", {})
    return schema


def _names(arguments: type[BaseModel]) -> list[tuple[str, str]]:
    return [(place, info.alias or place) for place, info in arguments.model_fields.items()]


def _summary(error: ValidationError) -> str:
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"])))
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    )[:_MAX_ERROR]


def _text(result: Any) -> str:
    from pydantic_core import to_json  # noqa: PLC0415

    return result if isinstance(result, str) else to_json(result).decode()


def _bounded(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > checks.MAX_BYTES:
        return f"Error: the result has {size:,} bytes, of which at most {checks.MAX_BYTES:,} can be kept: ask for less"
    return text
