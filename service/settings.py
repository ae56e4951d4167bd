"""Settings of the service, from command-line options and environment variables."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import ByteSize, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.errors import ConfigError


class Settings(BaseSettings):
    """Settings of the service.

    The environment variable of a field is REMIX_ and its name in capitals; an empty one is ignored.
    """

    model_config = SettingsConfigDict(
        env_prefix="REMIX_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    store: str = Field(default="store", min_length=1)
    """The store to serve: a folder or a URI that pyarrow.fs supports, e.g. s3://bucket/store."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 accepts connections from other machines."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on; 0 chooses a free one."""
    root_path: str | None = Field(default=None, pattern=r"^(/[\w.~-]+)+$")
    """The path under which a proxy that removes it offers the service, such as /remix."""
    cors_origins: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Origins whose pages may read the service, comma-separated, such as https://lab.example."""
    token: SecretStr | None = None
    """The token that clients of /v1 and /metrics must send; null allows access without a token."""
    max_event_streams: int = Field(default=64, ge=0)
    """Maximum number of clients that follow runs by events at a time; more get 503 and poll."""
    cache_dir: Path | None = None
    """Folder for cached tables of a remote store; null creates a temporary one."""
    cache_size: ByteSize = ByteSize(2 * 2**30)
    """Maximum size of the cached tables, e.g. 500MB or 2GiB."""

    media: bool = False
    """Offer the original clips of samples, read from the shards; needs `shards`."""
    shards: str | None = Field(default=None, min_length=1, validate_default=True)
    """The folder or URI that contains the shards by the names that feature sets have for them."""

    @field_validator("shards")
    @classmethod
    def _check_shards(cls, shards: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("media") and shards is None:
            raise ValueError("REMIX_MEDIA=1 needs REMIX_SHARDS, the folder of the shards")
        return shards

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        """Strip whitespace, e.g. of a token read from a file; reject what no header can carry."""
        if token is None:
            return None
        text = token.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError("Must consist of printable ASCII characters without spaces")
        return SecretStr(text)


def settings_of(**options: Any) -> Settings:
    """Settings from the options that are not None, otherwise from the environment.

    Raises ConfigError.
    """
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        value = "(hidden)" if name == "token" else repr(first["input"])
        raise ConfigError(
            f"Invalid {name}: {value}. {first['msg']}",
            f"Correct --{name.replace('_', '-')} or the environment variable REMIX_{name.upper()}",
        ) from error
