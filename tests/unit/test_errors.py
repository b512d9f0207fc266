"""The tree of errors is what its docstring draws, and what the package exports."""

import pickle
import re

import agentstore
from agentstore import errors


def tree():
    return {name: item for name, item in vars(errors).items() if isinstance(item, type)}


def test_the_drawing_is_complete():
    drawn = re.findall(r"^([│├└─ ]*)(\w+Error)\b", errors.__doc__, re.MULTILINE)
    assert {name for _, name in drawn} == set(tree())
    parents = {0: None}
    for lead, name in drawn:
        depth = len(lead) // 4
        parents[depth + 1] = name
        if depth:
            assert tree()[name].__base__.__name__ == parents[depth]


def test_all_are_exported():
    assert set(tree()) <= set(agentstore.__all__)
    for name, item in tree().items():
        assert getattr(agentstore, name) is item


def test_bad_input_is_a_value_error_too():
    assert issubclass(errors.MessageTooLargeError, ValueError)


def test_the_hint_is_told_and_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.ConflictError("it differs", hint="Read again")))
    assert str(error) == "it differs. Read again"
    assert error.hint == "Read again"
