"""What the service was asked to do, by environment and flags."""

import re
from pathlib import Path
from typing import Any

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import ConfigError


class Settings(BaseSettings):
    """Each field is also an environment variable, REMIX_ and its name in capitals; an empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix="REMIX_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    store: str = Field(default="store", min_length=1)
    """A folder or any pyarrow.fs URI."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    token: SecretStr | None = None
    """What /v1 and /metrics ask for as `Authorization: Bearer TOKEN`; null lets everyone read."""
    cache_dir: Path | None = None
    """Where copies of a remote store's tables lie; null makes a temporary folder."""
    cache_size: ByteSize = ByteSize(2 * 2**30)
    """How much they may take, e.g. 500MB or 2GiB."""

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        """A token that no client could send would lock everyone out; what is around one that was read from a file is no part of it."""
        if token is None:
            return None
        text = token.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError("it is empty, or has characters that an HTTP header cannot carry")
        return SecretStr(text)


def settings_of(**flags: Any) -> Settings:
    """The settings of flags that are not None, and else of the environment (raises ConfigError)."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        value = "(hidden)" if name == "token" else repr(first["input"])
        raise ConfigError(
            f"{name} is {value}: {first['msg']}",
            f"correct --{name.replace('_', '-')} or the environment variable REMIX_{name.upper()}",
        ) from error
