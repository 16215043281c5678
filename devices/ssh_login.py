"""Logging in: agent keys, key files, passphrases, passwords.

Tried in this order: the agent's keys (those that the configuration names before the others), key files
that are not encrypted, encrypted ones, questions.  So a passphrase or a password is asked for only when
everything that needs none was refused.  Secrets live in memory alone: in no log, argument or error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import paramiko

from devices.device import AskSecret
from devices.ssh_config import SshOptions
from devices.ssh_keys import Agent, KeyFile, OfferedKey, agent_keys, open_agent, read_key_file, unlock
from results.errors import AuthenticationError

_ATTEMPTS = 3
"""How often a passphrase or a password may be mistyped, as in OpenSSH."""

_LOGIN_LIMIT_S = 30.0
_PERSON_LIMIT_S = 300.0
"""How long the answer to one step may take while a person types, or an agent asks its user for leave."""


class Secrets:
    """Keys unlocked and passwords typed for one device, kept so that a reconnection asks nobody again.

    Args:
        ask: Asks a person; None where there is nobody.
    """

    def __init__(self, ask: AskSecret | None) -> None:
        self._ask = ask
        self._keys: dict[Path, paramiko.PKey] = {}
        self._passwords: dict[str, str] = {}

    @property
    def can_ask(self) -> bool:
        """Whether there is somebody to ask."""
        return self._ask is not None

    def ask(self, question: str) -> str | None:
        """An answer; None or empty where there is none."""
        return self._ask(question) if self._ask else None

    def key(self, path: Path) -> paramiko.PKey | None:
        """The key of a file that was unlocked before."""
        return self._keys.get(path)

    def keep_key(self, path: Path, key: paramiko.PKey) -> None:
        """Keeps an unlocked key."""
        self._keys[path] = key

    def password(self, login: str) -> str | None:
        """The password that let us in before."""
        return self._passwords.get(login)

    def keep_password(self, login: str, password: str) -> None:
        """Keeps a password that let us in."""
        self._passwords[login] = password


def log_in(transport: paramiko.Transport, options: SshOptions, secrets: Secrets, device: str) -> None:
    """Logs in over a transport whose host key has been checked.

    Raises:
        AuthenticationError: Saying what was tried and what to do.
        paramiko.SSHException: If the connection is lost meanwhile.
        OSError: Likewise.
    """
    _Login(transport, options, secrets, device).run()


class _Login:
    """One login: what the server still accepts, and what it has refused."""

    def __init__(
        self, transport: paramiko.Transport, options: SshOptions, secrets: Secrets, device: str
    ) -> None:
        self._transport = transport
        self._options = options
        self._secrets = secrets
        self._device = device
        self._tried: list[str] = []
        self._methods: set[str] = set()

    def run(self) -> None:
        self._transport.auth_timeout = _LOGIN_LIMIT_S
        try:
            self._transport.auth_none(self._options.user)
            return
        except paramiko.BadAuthenticationType as error:
            self._methods = set(error.allowed_types)
        with contextlib.ExitStack() as stack:
            agent = open_agent(self._options.agent)
            if agent is not None:
                stack.callback(agent.close)
            try:
                done = self._try_keys(agent) or self._try_questions()
            except (paramiko.SSHException, OSError, EOFError) as error:
                if self._transport.is_active() or not self._tried:
                    raise
                # OpenSSH hangs up after MaxAuthTries (6) refusals.
                raise self._refused(f"it hung up ({error}): perhaps too many keys were offered") from error
        if not done:
            raise self._refused()

    def _refused(self, detail: str = "") -> AuthenticationError:
        tried = "; ".join(self._tried) or "nothing: no key was found"
        ways = ", ".join(sorted(self._methods)) or "nothing more"
        remedy = (
            "Put a public key there with `ssh-copy-id`, name the right key (--identity-file of `devices add`,"
            " identity_file of a device that is in the lab file)"
        )
        if not self._secrets.can_ask:
            remedy += ", unlock an encrypted key with `ssh-add`, or run it where a password can be asked for"
        return AuthenticationError(
            self._device,
            f"{self._options} does not let us in{' (' + detail + ')' if detail else ''}."
            f" Tried: {tried}. It accepts: {ways}. {remedy}",
        )

    # ------------------------------------------------------------------ keys

    def _try_keys(self, agent: Agent | None) -> bool:
        files = [file for path in self._options.identity_files if (file := self._key_file(path))]
        offered: set[bytes] = set()
        attempts = [*agent_keys(agent, files, self._options.identities_only)]
        attempts += [OfferedKey(str(file.path), file.key) for file in files if file.key]
        for attempt in attempts:
            if attempt.key.asbytes() not in offered and "publickey" in self._methods:
                offered.add(attempt.key.asbytes())
                if self._try_key(attempt):
                    return True
        for file in files:
            if file.trouble:
                self._tried.append(f"{file.path} ({file.trouble})")
            elif file.locked and file.public not in offered and self._try_locked(file):
                return True
        return False

    def _key_file(self, path: Path) -> KeyFile | None:
        unlocked = self._secrets.key(path)
        return KeyFile(path, unlocked.asbytes(), unlocked) if unlocked else read_key_file(path)

    def _try_key(self, attempt: OfferedKey) -> bool:
        by_agent = isinstance(attempt.key, paramiko.AgentKey)
        self._transport.auth_timeout = _PERSON_LIMIT_S if by_agent else _LOGIN_LIMIT_S
        name = f"{attempt.name} {attempt.key.fingerprint}"
        return self._try(name, lambda: self._transport.auth_publickey(self._options.user, attempt.key))

    def _try(self, name: str, prove: Callable[[], Sequence[str]]) -> bool:
        """Whether a proof completes the login; a server may want a second one after the first."""
        # Noted before: where the server hangs up, the error must name this one too.
        self._tried.append(f"{name} (refused)")
        try:
            remaining = prove()
        except paramiko.BadAuthenticationType as error:
            self._methods = set(error.allowed_types)
            return False
        except paramiko.AuthenticationException:
            if not self._transport.is_active():
                raise
            return False
        if remaining:
            self._tried[-1] = f"{name} (accepted, but more is wanted)"
            self._methods = set(remaining)
        return not remaining

    def _try_locked(self, file: KeyFile) -> bool:
        if "publickey" not in self._methods:
            return False
        reason = "encrypted, and nobody to ask"
        for _ in range(_ATTEMPTS if self._secrets.can_ask else 0):
            passphrase = self._secrets.ask(f"Passphrase for the key {file.path}: ")
            if not passphrase:
                reason = "encrypted, and no passphrase was given"
                break
            key = unlock(file.path, passphrase)
            if key is not None:
                self._secrets.keep_key(file.path, key)
                return self._try_key(OfferedKey(str(file.path), key))
            reason = "wrong passphrase"
        self._tried.append(f"{file.path} ({reason})")
        return False

    # ------------------------------------------------------------------ questions

    def _try_questions(self) -> bool:
        """Password or keyboard-interactive, with whoever can be asked."""
        login = str(self._options)
        kept = self._secrets.password(login)
        for attempt in range(_ATTEMPTS):
            way = next((w for w in ("password", "keyboard-interactive") if w in self._methods), None)
            if way is None:
                return False
            password = kept if kept and not attempt else self._secrets.ask(f"Password for {login}: ")
            if not password:
                return False
            if self._try_password(way, password):
                self._secrets.keep_password(login, password)
                return True
        return False

    def _try_password(self, way: str, password: str) -> bool:
        self._transport.auth_timeout = _PERSON_LIMIT_S
        user = self._options.user
        if way == "password":
            return self._try(way, lambda: self._transport.auth_password(user, password, fallback=False))
        answers = _Answers(password, self._secrets)
        return self._try(way, lambda: self._transport.auth_interactive(user, answers))


class _Answers:
    """Answers a server's questions: the first with the password, further ones by asking."""

    def __init__(self, password: str, secrets: Secrets) -> None:
        self._password: str | None = password
        self._secrets = secrets

    def __call__(self, title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        answers: list[str] = []
        for question, _ in questions:
            answer, self._password = self._password, None
            answers.append(answer if answer is not None else self._secrets.ask(question) or "")
        return answers
