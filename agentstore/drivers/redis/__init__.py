"""Redis, Valkey and what speaks like them: one server, behind sentinels, or a cluster."""

from importlib.util import find_spec

from agentstore.errors import ConfigurationError

if find_spec("hiredis") is None:  # the registry looks for redis alone
    raise ConfigurationError("redis: needs the package hiredis too", hint="pip install 'agentstore[redis]'")

from .backend import RedisBackend

__all__ = ["RedisBackend"]
