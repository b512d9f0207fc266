"""``python tests/servers [--durable] up KIND...`` and ``... run KIND... -- COMMAND``: see the package's docstring."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its redis.py would hide the package

from servers import KINDS, RUN, Run, shared  # noqa: E402  it is found there
from servers.base import ServerError, variable  # noqa: E402  likewise


def main() -> int:
    arguments, command = _arguments()
    run = Run(durable=arguments.durable)
    os.environ[RUN] = str(run.root)
    try:
        urls = _urls(arguments.kinds, found=arguments.found)
        if arguments.what == "run":
            return subprocess.call(command, env={**os.environ, **urls})
        for name, url in urls.items():
            print(f"export {name}={shlex.quote(url)}")
        print(f"# logs, sockets and ca.pem: {run.root}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        run.close()
    return 0


def _urls(kinds: list[str], *, found: bool) -> dict[str, str]:
    """The variables that name the servers; with `found` those that do not start are told, and left out."""
    urls = {}
    for kind in kinds:
        try:
            urls[variable(kind)] = shared(kind).url
        except ServerError as error:
            if not found:
                raise
            print(f"Without {kind}: {error}", file=sys.stderr)
    return urls


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python tests/servers")
    parser.add_argument("--durable", action="store_true", help="the servers' own durability, data on disk")
    parser.add_argument("--found", action="store_true", help="leave out servers that are not there")
    parser.add_argument("what", choices=["up", "run"])
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    own, separator, command = sys.argv[1:], "", []
    if "--" in own:
        at = own.index("--")
        own, separator, command = own[:at], "--", own[at + 1 :]
    arguments = parser.parse_args(own)
    if (arguments.what == "run") != bool(separator and command):
        parser.error("run takes a command behind --, up takes none")
    return arguments, command


if __name__ == "__main__":
    sys.exit(main())
