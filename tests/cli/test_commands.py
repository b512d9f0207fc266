"""The commands as a program calls them: what they print, where, and with which exit code."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from agentstore import Message, ToolCall, db
from agentstore.cli.app import app

URL = "sqlite:///talks.db"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test in a folder of its own, with nothing in the environment that a command would take."""
    for name in ("DATABASE_URL", "STATE_URL", "MODEL"):
        monkeypatch.delenv(f"AGENTSTORE_{name}", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, given: str | bytes | None = None):
    return CliRunner().invoke(app, arguments, input=given, catch_exceptions=False)


def store(session_id: str, *messages: Message, **fields) -> list[Message]:
    with db(URL) as database:
        return database.sync.append(session_id, messages or [Message("user", "hello")], **fields)


# --- sessions ---


def test_sessions_as_json_are_pages():
    for session_id in ("a", "b", "c"):
        store(session_id, agent="Bot", user_id="ann")
    store("d", user_id="bob")

    first = json.loads(run("sessions", "--db", URL, "--user", "ann", "--limit", "2", "--json").stdout)
    assert [item["id"] for item in first["items"]] == ["c", "b"]
    assert (first["items"][0]["agent"], first["items"][0]["message_count"]) == ("Bot", 1)
    rest = json.loads(run("sessions", "--db", URL, "--user", "ann", "--cursor", first["next_cursor"], "--json").stdout)
    assert ([item["id"] for item in rest["items"]], rest["next_cursor"]) == (["a"], None)
    by_agent = json.loads(run("sessions", "--db", URL, "--agent", "Bot", "--json").stdout)
    assert [item["id"] for item in by_agent["items"]] == ["c", "b", "a"]


def test_sessions_as_a_table():
    store("a", user_id="ann")
    store("b", agent="Bot")
    result = run("sessions", "--db", URL)
    assert result.exit_code == 0
    assert result.stdout.index("│ b ") < result.stdout.index("│ a ")
    assert "ann" in result.stdout
    cursor = run("sessions", "--db", URL, "--limit", "1").stdout.split("--cursor ")[1].strip()
    assert "│ a " in run("sessions", "--db", URL, "--cursor", cursor).stdout


def test_sessions_where_a_table_has_no_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert run("sessions", "--db", URL).stdout == "There are none.\n"
    store("a")
    store("b", *(Message("user", str(n)) for n in range(2)))
    lines = run("sessions", "--db", URL).stdout.splitlines()
    assert [line.partition(", active ")[0] for line in lines] == ["b: 2 messages", "a: 1 message"]


def test_no_sessions():
    assert run("sessions", "--db", URL).stdout == "There are none.\n"
    assert json.loads(run("sessions", "--db", URL, "--json").stdout) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("url", [URL, "json:///talks"])
def test_looking_makes_no_file(folder, url):
    assert run("sessions", "--db", url).stdout == "There are none.\n"
    result = run("show", "s", "--db", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no session 's'" in result.stderr
    assert list(folder.iterdir()) == []


# --- show ---


def test_show_makes_tool_calls_visible():
    call = ToolCall("call-1", "weather", '{"city": "Bern"}')
    store(
        "s",
        Message("user", "rain?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sunny", tool_call_id="call-1"),
        Message("assistant", "It is", metadata={"interrupted": True}),
        Message("user", [{"type": "text", "text": "and here?"}, {"type": "image_url", "image_url": {"url": "x"}}]),
    )
    shown = run("show", "s", "--db", URL).stdout
    for part in ('calls weather({"city": "Bern"}) as call-1', "answers call-1", "[interrupted]", "[image_url]"):
        assert part in shown


def test_show_as_json_is_what_is_stored():
    stored = store("s", *(Message("user", f"{number} é \ud800 \x1b[31m") for number in range(5)), user_id="ann")
    shown = json.loads(run("show", "s", "--db", URL, "--limit", "2", "--json").stdout)
    assert [Message.from_dict(item) for item in shown["messages"]] == stored[-2:]
    assert (shown["session"]["id"], shown["session"]["message_count"]) == ("s", 5)


def test_show_says_that_there_is_more():
    store("s", *(Message("user", f"n{number}") for number in range(5)))
    result = run("show", "s", "--db", URL, "--limit", "2")
    assert "5 messages" in result.stdout
    assert "n4" in result.stdout
    assert "n2" not in result.stdout
    assert "the newest 2" in result.stdout


@pytest.mark.parametrize("command", ["show", "sessions"])
def test_stored_text_is_not_obeyed(command):
    hostile = "[bold red]x[/bold red] \x1b[2J\x1b]0;owned\x07 \x9b31m \u202eabc :smile: \ud800"
    store("s", Message("user", f"{hostile}\nsecond line"), agent="[link=http://evil]e\x1b[31m[/link]")
    with db(URL) as database:
        database.sync.update_session("s", title=hostile)
    result = run(*(["show", "s"] if command == "show" else ["sessions"]), "--db", URL)
    for bad in ("\x1b", "\x07", "\x9b", "\u202e", "\ud800"):
        assert bad not in result.stdout
    for text in ("[bold red]x[/bold red]", "\\x1b[2J", "\\u202eabc", ":smile:", "\\ud800"):
        assert text in result.stdout
    assert "\\x1b[31m[/link]" in result.stdout


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "nobody", "--db", URL], 1, "there is no session 'nobody'"),
        (["show", "", "--db", URL], 1, "session_id is empty"),
        (["show", "x" * 256, "--db", URL], 1, "256 characters"),
        (["sessions", "--db", URL, "--cursor", "?"], 1, "cursor"),
        (["sessions", "--db", "nosql://u:hunter2@h/x"], 2, "nosql"),
        (["sessions", "--db", "postgresql://u:hunter2@h/x?colour=red"], 2, "unknown option 'colour'"),
        (["sessions", "--db", "u:hunter2@h"], 2, "the database URL has no"),
        (["sessions", "--db", f"{URL}?password=hunter2"], 2, "unknown option 'password'"),
        (["chat", "--db", URL], 2, "OPENAI_API_KEY"),
        (["chat", "--db", URL, "--model", "parrot"], 2, "no model is called 'parrot'"),
        (["demo", "--db", "redis://u:hunter2@h?colour=red"], 2, "unknown option 'colour'"),
        (["show", "--db", URL], 2, "SESSION"),
        (["sessions", "--limit", "0"], 2, "--limit"),
        (["fly"], 2, "fly"),
    ],
)
def test_an_error_is_told_in_words(arguments, code, said):
    result = run(*arguments, given="hello\n")
    assert result.exit_code == code
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.output
    if result.stderr.startswith("agentstore:"):
        assert result.stderr.count("\n") == 1, "one line"


def test_a_session_of_somebody_else():
    store("s", user_id="ann")
    for arguments in (["show", "s"], ["chat", "--session", "s", "--model", "offline"]):
        result = run(*arguments, "--db", URL, "--user", "bob", given="hello\n")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "another user" in result.stderr


def test_an_unwritable_place(folder):
    (folder / "file").write_text("no folder")
    result = run("sessions", "--db", "sqlite:///file/x.db")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr


# --- chat through a pipe ---


def test_chat_through_a_pipe_answers_a_line_each():
    told = run("chat", "--db", URL, "--session", "s", "--model", "offline", given="My name is Ann\n\n")
    assert (told.exit_code, told.stdout) == (0, "I will remember: your name is Ann.\n")
    assert told.stderr == "New session s\n"
    asked = run("chat", "--db", URL, "--session", "s", "--model", "offline", given="Who am I?\n/exit\nnot asked\n")
    assert asked.stdout == "Your name is Ann.\n"
    assert asked.stderr == "Resuming session s: 2 messages\n"
    shown = run("chat", "--db", URL, "--session", "s", "--model", "offline", given="/history")
    assert shown.stdout.count("Ann") == 3
    with db(URL) as database:
        assert [m.role for m in database.sync.messages("s")] == ["user", "assistant"] * 2


def test_chat_without_a_model_leaves_nothing_behind(folder):
    assert run("chat", given="hello\n").exit_code == 2
    assert list(folder.iterdir()) == []


def test_chat_begins_a_new_session_each_time(monkeypatch):
    monkeypatch.setenv("AGENTSTORE_DATABASE_URL", URL)
    monkeypatch.setenv("AGENTSTORE_MODEL", "offline")
    for _ in range(2):
        assert run("chat", "--user", "ann", given="hello\n").exit_code == 0
    items = json.loads(run("sessions", "--json").stdout)["items"]
    assert [(item["user_id"], item["message_count"]) for item in items] == [("ann", 2)] * 2


def test_chat_shows_what_a_terminal_would_obey():
    result = run("chat", "--db", URL, "--model", "offline", given="\x1b[2J[bold]\n")
    assert "\\x1b[2J[bold]" in result.stdout
    assert "\x1b" not in result.stdout


def test_input_that_is_no_text():
    result = run("chat", "--db", URL, "--model", "offline", given=b"\xff\xfe\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "utf-8" in result.stderr


# --- the demo, and the program itself ---


def program(*arguments: str):
    return subprocess.run(
        [sys.executable, "-m", "agentstore", *arguments], capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def test_the_demo_resumes_in_a_second_process(folder):
    for _ in range(2):
        result = program("demo")
        assert (result.returncode, result.stderr) == (0, "")
        assert "Resuming session demo-" in result.stdout
        assert "Your name is Alice." in result.stdout
    assert (folder / "agentstore.db").exists()
    items = json.loads(run("sessions", "--json").stdout)["items"]
    assert [item["message_count"] for item in items] == [6, 6], "a session of its own each time"


def test_what_the_demo_says_to_type_next_works(folder):
    result = program("demo", "--db", "json:///talks", "--session", "mine; rm -rf 'x'")
    assert result.returncode == 0
    command = result.stdout.splitlines()[-1].strip().removeprefix("$ ")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # noqa: PTH120  a path of paths
    environment = {**os.environ, "PATH": path}
    answer = subprocess.run(  # a shell, because people have one
        command, shell=True, input="Who am I?\n", capture_output=True, encoding="utf-8", env=environment, check=True
    )
    assert answer.stdout == "Your name is Alice.\n"
    assert "6 messages" in answer.stderr


def test_the_demo_refuses_memory_at_once():
    result = run("demo", "--db", "memory:")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "ends with its process" in result.stderr


def test_the_demo_fails_where_nothing_survives():
    result = program("demo", "--db", "sqlite://")
    assert result.returncode == 1
    assert result.stderr == "agentstore: the second process did not know what the first was told\n"
    assert "Next" not in result.stdout


def test_the_version():
    result = program("--version")
    assert result.stdout.startswith("agentstore 0.")
    assert result.returncode == 0


def test_importing_agentstore_leaves_the_command_line_alone():
    code = (
        "import sys, agentstore; print([n for n in sys.modules if n.partition('.')[0] in ('typer', 'rich', 'click')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout == "[]\n"


def test_output_that_nobody_reads():
    store("s", *(Message("user", "x" * 100) for _ in range(2000)))
    with subprocess.Popen(
        [sys.executable, "-m", "agentstore", "show", "s", "--db", URL, "--limit", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
