"""A layer is a backend: it has every method of the protocol, and hands each call on."""

import inspect

import pytest
from retry_kit import Flaky
from test_retry import ARGUMENTS

from agentstore import protocol
from agentstore.drivers.memory import MemoryBackend
from agentstore.layers.base import Layer
from agentstore.layers.retry import Retrying

pytestmark = pytest.mark.anyio

METHODS = [name for name, _ in inspect.getmembers(protocol.Backend, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("layer", [Layer, Retrying])
def test_it_has_every_method_as_the_protocol_has_it(layer):
    for name in METHODS:
        theirs, ours = (inspect.signature(getattr(kind, name)) for kind in (protocol.Backend, layer))
        assert list(theirs.parameters.values()) == list(ours.parameters.values()), name


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {"pools", "close_at_exit", "aclose"}])
async def test_it_hands_each_call_on(name):
    plain, within = MemoryBackend, Flaky()
    arguments = ARGUMENTS.get(name, ())
    await plain.append(within, ARGUMENTS["append"][0])
    await getattr(Layer(within), name)(*arguments)
    assert within.calls == [(name, *arguments)]


def test_what_the_backend_lacks_the_layer_lacks():
    within = Flaky()
    assert Layer(within).lacks is within.lacks
