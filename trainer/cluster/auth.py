"""The token that a Ray cluster asks for: from where Ray itself reads it, else from the cluster that Docker Compose runs here."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, InputError

COMPOSE = ("docker", "compose", "exec", "-T", "head", "cat", "/auth/token")
COMPOSE_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token, which nobody gets to see, and where it is from."""

    value: str = field(repr=False)
    source: str

    @property
    def headers(self) -> dict[str, str]:
        """What a request has to carry."""
        return {"Authorization": f"Bearer {self.value}"}


def tokens(address: str) -> Iterator[Token | None]:
    """What to try at an address, one after the other: the token that is given, None where there is none, then Docker Compose's (raises ConfigError)."""
    yield _given()
    if _is_loopback(address) and (local := _of_compose()):
        yield local


def refused(address: str, tried: list[Token]) -> InputError:
    """The error for a cluster that let nobody in, whatever was tried."""
    what = (
        f"refused the token of {' and that of '.join(token.source for token in tried)}"
        if tried
        else "asks for a token"
    )
    return InputError(
        f"the cluster at {address} {what}",
        f"export RAY_AUTH_TOKEN=...; for the local cluster: export RAY_AUTH_TOKEN=$({' '.join(COMPOSE)})",
    )


def _given() -> Token | None:
    if value := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(value, "RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return _checked(path.read_text(encoding="utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        if named:
            raise ConfigError(
                f"RAY_AUTH_TOKEN_PATH is {named!r}, where no token can be read",
                "give the path of a file that holds one",
            ) from error
        return None  # the file at home is made by any Ray on this machine: it need not be for this cluster


def _checked(value: str, source: str) -> Token:
    """Keeps what cannot be sent in a header from an error of the HTTP library, which would show it."""
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(f"{source} holds no token", "a token is one word of ASCII characters")
    return Token(value=value, source=source)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _of_compose() -> Token | None:
    """The token of the cluster of the compose file in this folder; whatever goes wrong, there is none."""
    if not shutil.which(COMPOSE[0]):
        return None
    try:
        done = subprocess.run(
            COMPOSE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMPOSE_SECONDS,
            check=True,
        )
        return _checked(done.stdout.strip(), "Docker Compose")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError, ConfigError):
        return None
