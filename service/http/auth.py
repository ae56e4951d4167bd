"""Who may ask, and what they may ask with."""

import hmac
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as DependsOn
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.settings import Settings

BEARER = HTTPBearer(
    auto_error=False, description="The REMIX_TOKEN that the service was started with."
)


async def check_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
) -> None:
    """Refuses a request without the token, comparing in constant time."""
    wanted = request.app.state.settings.token.get_secret_value()
    if given is None or not hmac.compare_digest(given.credentials.encode(), wanted.encode()):
        raise HTTPException(
            401,
            "give the service's token as 'Authorization: Bearer TOKEN'",
            {"WWW-Authenticate": "Bearer"},
        )


async def check_query(request: Request) -> None:
    """Refuses query parameters that the route does not have, or that are given twice: they would be passed over in silence."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise _refusal(
                name,
                f"no such parameter; known are {', '.join(sorted(known))}"
                if known
                else "no such parameter; this address takes none",
            )
        if given.count(name) > 1:
            raise _refusal(name, "it is given more than once; give one value")


def _refusal(name: str, why: str) -> RequestValidationError:
    return RequestValidationError(
        [{"loc": ("query", name[:100]), "msg": why, "type": "value_error"}]
    )


def guards(settings: Settings) -> list[DependsOn]:
    """The dependencies of every route that shows what is in the store."""
    return [*([Depends(check_token)] if settings.token else []), Depends(check_query)]
