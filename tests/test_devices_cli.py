"""``boardwise devices`` end to end: over a real sshd, and on this very machine."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from devices.agent_client import AgentClient
from devices.local import LocalConnection
from devices.registry import Lab
from examples.private_sshd import PrivateSshd
from harness.cli import _parser, main
from tests.fixtures_ssh import let_in, make_key

PATIENCE_S = 60.0
AT_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())", *sys.argv[1:]])
"""  # noqa: E501


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return tmp_path / "lab" / "lab.toml"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Boardwise's directory on the local device."""
    return tmp_path / "board"


@pytest.fixture
def here(lab: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The lab file with this machine in it."""
    arguments = ["here", "--local", "--python", sys.executable, "--directory", str(directory)]
    assert main(["devices", "add", *arguments, "--lab", str(lab)]) == 0
    capsys.readouterr()
    return lab


@pytest.mark.parametrize(
    "order",
    [
        "devices add desk --python python3.11 pi@desk",
        "devices add desk pi@desk --python python3.11",
        "devices add --python python3.11 desk pi@desk",
        "devices emulate --cpus 1 pi4 --name desk",
        "nightly accept --runs nights desk",
        "compare a.onnx --on desk b.onnx",
    ],
)
def test_options_may_stand_before_between_and_after_the_other_arguments(order: str) -> None:
    given = vars(_parser().parse_args(order.split()))
    words = {str(w) for value in given.values() for w in (value if isinstance(value, list) else [value])}
    assert {w for w in order.split()[1:] if not w.startswith("-")} - {"add", "emulate"} <= words


def test_an_argument_too_many_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["devices", "add", "desk", "--python", "python3.11", "pi@desk", "another"])
    assert "unrecognized arguments: another" in capsys.readouterr().err


def over_ssh(server: PrivateSshd, config: Path, lab: Path, *more: str) -> list[str]:
    """The arguments that add a device ``desk`` over a server."""
    files = ["--identity-file", str(server.identity_file), "--ssh-config", str(config), "--lab", str(lab)]
    return ["devices", "add", "desk", server.address, "--python", sys.executable, *files, *more]


def shown_keys(server: PrivateSshd) -> list[str]:
    """Fingerprints of a server's keys, as ``ssh-keygen`` says them."""
    keys = sorted(server.folder.glob("host_key_*.pub"))
    outputs = [subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True) for key in keys]
    return [output.stdout.split()[1] for output in outputs]


def trusting(server: PrivateSshd) -> list[str]:
    return [text for key in shown_keys(server) for text in ("--fingerprint", key)]


def at_terminal(arguments: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Runs a command at a terminal of its own and answers its questions; status and everything shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown, waiting, seen = "", list(answers), 0
    deadline = time.monotonic() + PATIENCE_S
    try:
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:  # how Linux says that the other side of a terminal was closed
                break
            if waiting and waiting[0][0] in shown[seen:]:
                seen = len(shown)
                os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
        return process.wait(PATIENCE_S), shown.replace("\r\n", "\n")
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# --------------------------------------------------------------------------- over ssh


@pytest.mark.ssh
def test_a_board_is_added_shown_checked_and_removed(
    sshd: PrivateSshd, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(over_ssh(sshd, ssh_config, lab, *trusting(sshd), "--json")) == 0
    added = told(capsys)
    assert added["facts"]["machine"] == os.uname().machine
    assert added["facts"]["runtimes"]["onnxruntime"]
    entry = Lab.load(lab).entry("desk")
    assert entry.address == sshd.address
    assert entry.seen is not None
    assert (entry.seen.unit, entry.seen.cpus) == (added["facts"]["unit"], added["facts"]["cpus"])
    assert "known_hosts" not in lab.read_text()
    assert f"[127.0.0.1]:{sshd.port}" in (lab.parent / "known_hosts").read_text()

    assert main(["devices", "list", "--lab", str(lab), "--json"]) == 0
    assert [listed["name"] for listed in told(capsys)] == ["desk"]
    assert main(["devices", "show", "desk", "--lab", str(lab)]) == 0
    text = capsys.readouterr().out
    for word in (added["facts"]["model"], "generic-linux", "onnxruntime", "governor", "meters", "unit"):
        assert word in text
    assert main(["devices", "check", "desk", "--lab", str(lab), "--json"]) == 0
    checks = {check["name"]: check for check in told(capsys)}
    assert checks["smallest model"]["state"] == "ok"
    assert checks["unit"]["state"] == "ok"

    assert main(["devices", "remove", "desk", "--lab", str(lab)]) == 0
    assert "stays trusted" in capsys.readouterr().err
    assert Lab.load(lab).entries == {}


@pytest.mark.ssh
def test_nothing_is_trusted_where_nobody_can_be_asked(
    sshd: PrivateSshd, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(over_ssh(sshd, ssh_config, lab)) == 1
    message = capsys.readouterr().err
    assert any(f"--fingerprint {key}" in message for key in shown_keys(sshd))
    assert "no terminal to ask at" in message
    assert not lab.exists()
    assert not (lab.parent / "known_hosts").exists()


@pytest.mark.ssh
def test_another_fingerprint_is_refused_with_both(
    sshd: PrivateSshd, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(over_ssh(sshd, ssh_config, lab, "--fingerprint", "SHA256:other")) == 1
    message = capsys.readouterr().err
    assert any(key in message for key in shown_keys(sshd))
    assert "SHA256:other" in message
    assert not lab.exists()
    # Nor does a key that was trusted before overrule the one that is asked for.
    assert main(over_ssh(sshd, ssh_config, lab, *trusting(sshd))) == 0
    assert main(over_ssh(sshd, ssh_config, lab, "--fingerprint", "SHA256:other")) == 1
    assert "which was trusted before" in capsys.readouterr().err


@pytest.mark.ssh
@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("no", 1), ("y", 1), ("", 1)])
def test_the_person_at_the_terminal_is_asked(
    sshd: PrivateSshd, ssh_config: Path, lab: Path, answer: str, status: int
) -> None:
    code, shown = at_terminal(over_ssh(sshd, ssh_config, lab), [("Type yes or no:", answer)])
    assert any(key in shown for key in shown_keys(sshd))
    assert code == status, shown
    assert lab.exists() == (status == 0)
    if status:
        assert "nothing was added" in shown


@pytest.mark.ssh
def test_the_passphrase_of_a_key_is_asked_for_and_not_shown(
    own_sshd: PrivateSshd, ssh_config: Path, lab: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    let_in(own_sshd, key)
    arguments = over_ssh(own_sshd, ssh_config, lab, "--identity-file", str(key), *trusting(own_sshd))
    code, shown = at_terminal(arguments, [("assphrase", "open sesame")])
    assert code == 0, shown
    assert "open sesame" not in shown
    assert Lab.load(lab).entry("desk").identity_file == str(key)


@pytest.mark.ssh
def test_a_board_that_was_set_up_anew_is_refused_until_its_old_key_is_forgotten(
    own_sshd: PrivateSshd, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(over_ssh(own_sshd, ssh_config, lab, *trusting(own_sshd))) == 0
    lab.write_text(lab.read_text() + "# mine\n")
    [before] = shown_keys(own_sshd)
    own_sshd.stop()
    own_sshd.renew_host_keys()
    own_sshd.start()
    [after] = shown_keys(own_sshd)
    capsys.readouterr()
    for command in (["devices", "show", "desk", "--lab", str(lab)], over_ssh(own_sshd, ssh_config, lab)):
        assert main(command) == 1
        message = capsys.readouterr().err
        assert before in message
        assert after in message
        assert "ssh-keygen -R" in message
    name, known_hosts = f"[127.0.0.1]:{own_sshd.port}", lab.parent / "known_hosts"
    subprocess.run(["ssh-keygen", "-R", name, "-f", known_hosts], check=True, capture_output=True)
    assert main(over_ssh(own_sshd, ssh_config, lab, "--fingerprint", after)) == 0
    assert "# mine" in lab.read_text()


@pytest.mark.ssh
def test_a_board_without_python_is_refused_plainly(
    sshd: PrivateSshd, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = over_ssh(sshd, ssh_config, lab, *trusting(sshd), "--python", "/nowhere/python3")
    assert main(arguments) == 1
    assert "desk: there is no Python at '/nowhere/python3'" in capsys.readouterr().err
    assert not lab.exists()


@pytest.mark.ssh
def test_a_python_that_is_too_old_is_refused_plainly(
    sshd: PrivateSshd, sshd_home: Path, ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = sshd_home / "python3.7"
    answer = {"version": [3, 7, 3], "implementation": "CPython", "machine": "aarch64", "bits": 64}
    answer |= {"libc": "glibc 2.28", "numpy": None, "free_threaded": False}
    old.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    old.chmod(0o755)
    assert main(over_ssh(sshd, ssh_config, lab, *trusting(sshd), "--python", "./python3.7")) == 1
    message = capsys.readouterr().err
    assert "Python 3.7.3 on aarch64 with glibc 2.28 is too old" in message
    assert "3.8" in message
    assert not lab.exists()


def test_a_board_that_is_not_there_is_told(
    ssh_config: Path, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers, and nobody else gets it
        address = f"pi@127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["devices", "add", "pi5", address, "--ssh-config", str(ssh_config), "--lab", str(lab)]
        assert main(arguments) == 1
    assert "pi5: " in capsys.readouterr().err
    assert not lab.exists()


@pytest.mark.ssh
@pytest.mark.slow
def test_a_bare_board_gets_a_runtime_and_runs_it(
    sshd: PrivateSshd,
    sshd_home: Path,
    ssh_config: Path,
    lab: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", sshd_home / "venv"], check=True)
    assert main(over_ssh(sshd, ssh_config, lab, *trusting(sshd), "--python", "venv/bin/python")) == 0
    assert "boardwise devices setup desk" in capsys.readouterr().err
    assert main(["devices", "check", "desk", "--lab", str(lab), "--json"]) == 1
    checks = {check["name"]: check for check in told(capsys)}
    assert (checks["runtimes"]["state"], checks["runtimes"]["found"]) == ("refused", "none")

    # pip keeps its downloads where the user has them; ours are kept apart.
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    setup = ["devices", "setup", "desk", "--runtime", "tflite", "--version", "2.14.0", "--lab", str(lab)]
    assert main([*setup, "--json"]) == 0
    result = told(capsys)
    assert [one["package"] for one in result["brought"]] == ["tflite-runtime"]
    assert result["runtimes"] == {"tflite": "2.14.0 (tflite-runtime)"}
    assert (sshd_home / ".cache/boardwise/1/runtimes/tflite-runtime-2.14.0").is_dir()
    assert main(["devices", "check", "desk", "--lab", str(lab), "--json"]) == 0
    checks = {check["name"]: check for check in told(capsys)}
    assert checks["smallest model"]["found"] == "tflite ran it"


# --------------------------------------------------------------------------- on this machine


def test_this_machine_is_added_without_ssh(here: Path, directory: Path) -> None:
    entry = Lab.load(here).entry("here")
    assert (entry.connection, entry.address, entry.known_hosts) == ("local", "", None)
    assert (directory / "1").is_dir()
    assert not (here.parent / "known_hosts").exists()


def test_adding_again_looks_again(here: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = here.read_text()
    here.write_text(text.replace(f'os = "{Lab.load(here).entry("here").seen.os}"', 'os = "An older system"'))  # type: ignore[union-attr]
    assert "An older system" in here.read_text()
    assert main(["devices", "add", "here", "--local", "--lab", str(here)]) == 0
    assert "An older system" not in here.read_text()
    capsys.readouterr()
    assert main(["devices", "add", "here", "pi@192.0.2.7", "--lab", str(here)]) == 1
    message = capsys.readouterr().err
    assert "[devices.here] is there already" in message
    assert "devices remove here" in message


def test_a_board_that_is_taken_says_who_holds_it(
    here: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalConnection("here") as connection:
        holder = AgentClient.start(
            connection, python=sys.executable, directory=str(directory), holder="ada@lovelace"
        )
        with holder:
            assert main(["devices", "check", "here", "--lab", str(here), "--json"]) == 1
            checks = {check["name"]: check for check in told(capsys)}
            assert checks["lock"]["state"] == "refused"
            assert "ada@lovelace" in checks["lock"]["found"]
            assert main(["devices", "setup", "here", "--lab", str(here)]) == 1
            assert "ada@lovelace" in capsys.readouterr().err


def test_setup_leaves_a_board_its_own_runtimes(
    here: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a Jetson, whose Python comes with builds that no index has."""
    assert main(["devices", "setup", "here", "--lab", str(here)]) == 0
    captured = capsys.readouterr()
    said = " ".join(captured.err.split())
    assert f"onnxruntime {onnxruntime.__version__} is the board's own and runs a small model" in said
    assert "ai-edge-litert" in said
    assert "(the board's own)" in captured.out
    assert not (directory / "1" / "runtimes").exists(), "nothing was brought"


def test_another_unit_under_the_same_name_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Lab.load(here).entry("here").seen
    assert seen is not None
    here.write_text(here.read_text().replace(seen.unit, "feedfeedfeedfeed"))
    assert main(["devices", "check", "here", "--lab", str(here), "--json"]) == 1
    [unit] = [check for check in told(capsys) if check["state"] == "refused"]
    assert (unit["name"], unit["found"]) == ("unit", f"{seen.unit}, another one")


def test_names_are_listed_whole_however_narrow_the_terminal(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a-board-with-quite-a-long-name-on-the-third-shelf", "b"]
    address = "somebody@a-host-with-a-long-name.example.org:2222"
    lab.parent.mkdir(parents=True)
    lab.write_text("".join(f'[devices.{name}]\naddress = "{address}"\n' for name in names))
    command = ["devices", "list", "--lab", str(lab)]
    assert main(command) == 0
    header, *piped = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "address", "board", "machine", "memory", "Python"]
    assert [line.split() for line in piped] == [[name, address, "generic-linux"] for name in names]
    monkeypatch.setenv("COLUMNS", "80")
    code, shown = at_terminal(command, [])
    assert code == 0
    assert [line.strip() for line in shown.splitlines()[:3]] == ["name", *names]
    assert "not shown for want of room: address, board" in shown


def test_adding_says_where_it_is_written(
    lab: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--local", "--python", sys.executable, "--directory", str(directory)]
    assert main(["devices", "add", "here", *words, "--lab", str(lab)]) == 0
    assert f"here is in {lab}" in capsys.readouterr().err


def test_an_empty_lab_says_how_to_fill_it(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "list", "--lab", str(lab)]) == 0
    assert "boardwise devices add" in capsys.readouterr().err
    assert main(["devices", "list", "--lab", str(lab), "--json"]) == 0
    assert told(capsys) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "pi5"],
        ["add", "pi5", "pi@192.0.2.7", "--local"],
        ["setup", "pi5", "--version", "1.0"],
        ["setup", "pi5", "--runtime", "torch"],
        ["frobnicate"],
        [],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["devices", *arguments])
    assert caught.value.code == 2
    assert "usage: boardwise devices" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["setup", "show", "check", "remove"])
def test_an_unknown_device_is_answered_with_the_nearest(
    here: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", action, "hear", "--lab", str(here)]) == 1
    assert "unknown device 'hear'; did you mean 'here'?" in capsys.readouterr().err


def test_a_name_that_cannot_be_used_is_refused_before_anything_is_asked(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "add", "my board", "pi@192.0.2.7", "--lab", str(lab)]) == 2
    assert "'my board'" in capsys.readouterr().err
