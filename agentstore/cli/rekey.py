"""`agentstore rekey`: a store from one encryption key to another, from plain to encrypted, or back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agentstore.drivers import registry
from agentstore.errors import AgentstoreError, ConfigurationError
from agentstore.options import PoolOptions
from agentstore.rekeying import Report, rekey
from agentstore.sync import run_blocking

from .doctor import check_there
from .hints import chosen
from .output import complain, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentstore.protocol import Backend


def run(
    database_url: str | None,
    old_keys: Sequence[str | bytes],
    new_keys: Sequence[str | bytes],
    *,
    decrypt: bool,
    as_json: bool,
) -> None:
    """Rewrite a store and look at it again; exit code 1 if something is left in its old form.

    Args:
        database_url: Which store.
        old_keys: What may be encrypted with.
        new_keys: The one new key.
        decrypt: There is no new key: all becomes plain.
        as_json: Print the report as JSON.
    """
    if decrypt == bool(new_keys) or len(new_keys) > 1:
        raise ConfigurationError("one new key is needed, or --decrypt in place of it")
    url = chosen(database_url)
    backend = registry.load(url, PoolOptions())
    check_there(url)
    try:
        report = _rekeyed(backend, old_keys, new_keys[0] if new_keys else None)
    except ConfigurationError:
        raise
    except AgentstoreError as error:
        complain(error)
        say("agentstore: not all was rewritten: run the same command again", err=True)
        raise typer.Exit(1) from error
    if as_json:
        print_json({"url": str(url), **dataclasses.asdict(report)})
    else:
        _tell(report, decrypt=decrypt)
    if report.left:
        raise typer.Exit(1)


def _rekeyed(backend: Backend, old_keys: Sequence[str | bytes], new_key: str | bytes | None) -> Report:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("opening", total=None)

        def show(report: Report) -> None:
            doing = "verifying" if report.verifying else "rewriting"
            told = f"{doing}: {report.sessions:,} sessions, {report.values:,} state values"
            bar.update(task, description=f"{told}; {report.rewritten:,} records rewritten")

        rewritten: Report = run_blocking(lambda: _open_and_rekey(backend, old_keys, new_key, show))
        return rewritten


async def _open_and_rekey(
    backend: Backend, old_keys: Sequence[str | bytes], new_key: str | bytes | None, show: Callable[[Report], None]
) -> Report:
    try:
        await backend.aopen()
        return await rekey(backend, old_keys=old_keys, new_key=new_key, progress=show)
    finally:
        await backend.aclose()


def _tell(report: Report, *, decrypt: bool) -> None:
    done = "plain" if decrypt else "encrypted with the new key"
    say(f"{report.rewritten:,} records rewritten.")
    if not report.left:
        say(f"All is {done} (sessions: {report.sessions:,}, state values: {report.values:,}).")
        return
    for error in report.errors:
        say(f"agentstore: {error}", err=True)
    count = "1 record is" if report.left == 1 else f"{report.left:,} records are"
    say(f"agentstore: {count} not {done}: mend what is told above, then run the same command again", err=True)
