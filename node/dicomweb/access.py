"""Who may do what: each request shows a bearer token (RFC 6750), of which we know the digest only.

Nothing is told to those who have none, not even what paths there are.
"""

import hmac

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from node.addresses import plain_address
from node.dicomweb.answers import problem
from node.dicomweb.settings import DicomwebClient, Permission
from node.dicomweb.strangers import Strangers
from node.dicomweb.tokens import digest_of

log = structlog.get_logger()

REALM = 'Bearer realm="Overread"'
NOT_KNOWN = "it shows no token that is known here"
_NEEDED = {"GET": Permission.READ, "HEAD": Permission.READ, "POST": Permission.STORE}


class Access:
    """Lets requests through that a client may make; the client is in the scope's state then.

    What a request needs follows from its method: all that QIDO-RS and WADO-RS have is GET, STOW-RS
    is POST.
    """

    def __init__(self, app: ASGIApp, clients: tuple[DicomwebClient, ...]) -> None:
        self._app = app
        self._clients = clients
        self._strangers = Strangers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401, 403 or 405."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        shown = Headers(scope=scope).get("authorization", "")
        client = self._client(shown)
        needed = _NEEDED.get(scope["method"])
        if client is None:
            answer = await self._not_known(scope, shown)
        elif needed is None:
            answer = problem(405, "Use GET, HEAD or POST.", headers={"Allow": ", ".join(_NEEDED)})
        elif needed not in client.may:
            self._log_refused(scope, f"client {client.name} may not {needed}")
            answer = problem(403, f"This client may not {needed}: see 'may' in its configuration.")
        else:
            scope.setdefault("state", {})["client"] = client
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)

    async def _not_known(self, scope: Scope, shown: str) -> Response:
        """Return the answer to a stranger, at once unless it showed too many wrong tokens."""
        self._log_refused(scope, NOT_KNOWN)
        headers = {"WWW-Authenticate": REALM}
        if shown and not await self._strangers.wait(_address(scope), NOT_KNOWN):
            headers["Connection"] = "close"  # then at least it has to come anew
        return problem(
            401,
            "Show the bearer token of a client in [[dicomweb.clients]] of the node's "
            "configuration; 'overread token' makes one.",
            headers=headers,
        )

    def _log_refused(self, scope: Scope, reason: str) -> None:
        times = self._strangers.to_log(_address(scope), reason)
        if times:
            log.warning(
                "dicomweb.refused",
                reason=reason,
                method=scope["method"],
                address=_address(scope),
                times=times,
                remedy="if this client is meant, give it a token with 'overread token', or correct "
                "'may'",
            )

    def _client(self, authorization: str) -> DicomwebClient | None:
        """The client whose token it is; takes as long whichever it is."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        shown = digest_of(token.strip())
        found = None
        for client in self._clients:
            if hmac.compare_digest(client.token_sha256, shown):
                found = client
        return found


def _address(scope: Scope) -> str:
    return plain_address(str((scope.get("client") or ("", 0))[0]))
