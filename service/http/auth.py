"""Checks that run before every route: the token and the query parameters."""

import hmac
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as DependsOn
from fastapi.params import Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.settings import Settings

BEARER = HTTPBearer(
    auto_error=False, description="The value of REMIX_TOKEN that the service was started with."
)


async def check_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
) -> None:
    """Raise HTTP 401 unless the request has the token. Compares in constant time."""
    expected = request.app.state.settings.token.get_secret_value()
    if given is None or not hmac.compare_digest(given.credentials.encode(), expected.encode()):
        raise HTTPException(
            401,
            "Token missing or wrong. Send it as 'Authorization: Bearer TOKEN'.",
            {"WWW-Authenticate": "Bearer"},
        )


async def check_query(request: Request) -> None:
    """Raise HTTP 422 for unknown and repeated query parameters, which FastAPI would ignore."""
    fields = get_flat_params(request.scope["route"].dependant)
    known = {field.alias for field in fields if isinstance(field.field_info, Query)}
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise _invalid_query(
                name,
                f"Unknown parameter. Choose from {', '.join(sorted(known))}."
                if known
                else "Unknown parameter. This route has no parameters.",
            )
        if given.count(name) > 1:
            raise _invalid_query(name, "Given more than once. Pass a single value.")


def _invalid_query(name: str, message: str) -> RequestValidationError:
    return RequestValidationError(
        [{"loc": ("query", name[:100]), "msg": message, "type": "value_error"}]
    )


def guards(settings: Settings) -> list[DependsOn]:
    """Dependencies of the routes that expose the store; the last one suits public routes too."""
    return [*([Depends(check_token)] if settings.token else []), Depends(check_query)]
