"""The servers that tests and benchmarks run against: real ones, each on a free loopback port with data of its own.

In a test, `tests/conftest.py` makes fixtures of these three::

    fresh("postgresql")             # the URL of an empty store on the shared server, gone after the test
    shared("redis").tls_url         # the shared server itself: URLs, the CA to trust, its folder
    private_server("mysql")         # one of the test's own, to kill(), stop(), pause(), and start() on the same data
    private_server("redis-replicated")  # one with a replica at `server.replica_url`; also "postgresql-", "mysql-"

From a shell, for a benchmark or to look around::

    python tests/servers up postgresql redis          # prints `export AGENTSTORE_TEST_..._URL=...`, stays until Ctrl-C
    python tests/servers run mysql -- make contract   # runs a command with the variables set
    python tests/servers --durable run mysql -- ...   # with the server's own durability, its data on disk
    python tests/servers --found run mysql redis -- ...  # without those that are not installed here

A kind whose ``$AGENTSTORE_TEST_<KIND>_URL`` is set (``REDIS_CLUSTER`` for ``redis-cluster``) is not started: the URL is
used, by an account that may create databases. `make servers` installs what is missing.

A shared server starts when the first test asks, once for all processes of a pytest run. Nothing outlives the run, also
when it is killed: each server has a guard (`guard.py`) that waits on a pipe which only the run holds open.
"""

from .base import ServerError
from .run import KINDS, RUN, Run, Running, fresh, private_server, shared

__all__ = ["KINDS", "RUN", "Run", "Running", "ServerError", "fresh", "private_server", "shared"]
