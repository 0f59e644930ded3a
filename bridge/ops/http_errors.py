"""Errors that the HTTP server itself answers: requests that it cannot read, and expectations that it cannot meet."""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from bridge.ops.api import PREFIX, problem
from bridge.ops.connections import LONGEST_LINE


class ProblemProtocol(web.RequestHandler):
    """Protocol of one connection whose own errors are problem details (RFC 9457), not text.

    The middlewares of an application do not see these errors: no application has received the request.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or whose handler has failed. The connection closes."""
        super().handle_error(request, status, exc, message)  # logs, and refuses after a part of an answer
        match status, exc:
            case 400, LineTooLong():
                text = (
                    f"the first line of the request, or a header, is too long (a first line has at most "
                    f"{LONGEST_LINE:,} bytes). Next: name fewer ids or conditions in one request"
                )
            case 400, _:
                text = "this is not an HTTP request that can be read"
            case _:
                text = "the bridge could not answer; see its log"
        response = problem(status, "bad_request" if status == 400 else "bug", text)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. A refusal that no middleware has seen becomes a problem."""
        if isinstance(resp, web.HTTPException) and request.path.startswith(PREFIX):
            resp = problem(resp.status, resp.reason.lower().replace(" ", "_"), resp.text or resp.reason)
        return await super().finish_response(request, resp, start_time)
