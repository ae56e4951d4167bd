"""The token that a Ray cluster asks for, from where Ray itself reads it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError, InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token, which nobody gets to see, and where it is from."""

    value: str = field(repr=False)
    source: str

    @property
    def headers(self) -> dict[str, str]:
        """What a request has to carry."""
        return {"Authorization": f"Bearer {self.value}"}


def refused(address: str, token: Token | None) -> InputError:
    """The error for a cluster that did not let us in."""
    what = f"refused the token of {token.source}" if token else "asks for a token"
    cure = "export RAY_AUTH_TOKEN=..., or RAY_AUTH_TOKEN_PATH=FILE, with the token of its head"
    return InputError(f"the cluster at {address} {what}", cure)


def given_token() -> Token | None:
    """The token that the environment or this user's home has (raises ConfigError)."""
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
