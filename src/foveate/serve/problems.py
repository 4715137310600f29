"""What a client is told when something is wrong: fixed words by kind of failure, never the text of an exception.

Only messages about a client's own plan are passed on as they are: they are made from the request and the registry of
methods alone, and say what would work.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError, MediaError, OutOfMemoryError, PlanError, UnsupportedCallError, UnsupportedModelError
from ..memory import is_memory


class Problem(Exception):  # noqa: N818  (it is an answer as much as an error)
    """An answer that is an error, in the form OpenAI's clients read.

    Attributes:
        status: of HTTP. code: short and fixed, for programs. param: the field of the request, if one is to blame.
        retry: seconds after which to try again, or None.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry = status, code, message, param, retry

    @property
    def kind(self) -> str:
        """The class of error in OpenAI's terms."""
        known = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        return known.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad(message: str, param: str | None = None, code: str = "invalid_value") -> Problem:
    """A request that cannot be served as it is."""
    return Problem(400, code, message, param)


def told(error: BaseException) -> Problem:
    """What a client is told of an exception."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OutOfMemoryError) or is_memory(error):
        return Problem(
            503, "out_of_memory", "The server has no memory for this request; send fewer or smaller media.", retry=5
        )
    if isinstance(error, PlanError):
        return bad(str(error)[:500], "foveate.plan", "invalid_plan")
    if isinstance(error, MediaError):
        return bad("A picture or video is damaged, too large, or of a kind that is not read.", "messages", "bad_media")
    if isinstance(error, UnsupportedCallError | UnsupportedModelError):
        return bad("This model or plan cannot serve such a request.", None, "unsupported")
    if isinstance(error, InputError):
        return bad("The model cannot take this conversation.", "messages")
    return Problem(500, "internal_error", "The server failed to answer; its log says why.")


def cancelled() -> Problem:
    """Nobody waits for the answer; a new one each time, as exceptions carry their traces."""
    return Problem(499, "cancelled", "The request was cancelled.")


def timeout() -> Problem:
    """The deadline is over."""
    return Problem(504, "deadline_exceeded", "The answer took longer than its deadline.")


def stopping() -> Problem:
    """The server ends."""
    return Problem(503, "stopping", "The server is stopping.", retry=5)
