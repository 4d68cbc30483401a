"""Errors of the server, and all errors in the shape that OpenAI's clients read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from email.message import Message

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..core.params import SamplingParams
from ..core.thread import EngineStopped, QueueFull
from ..errors import (
    CospecError,
    InvalidCombination,
    InvalidPrompt,
    InvalidSchedule,
    MemberFailed,
    MissingExtra,
    UnknownName,
)
from ..plugins import PluginFailed

SECONDS_TO_RETRY = 1


# Status and code of the library's errors that are not the client's; all others get 400.
_STATUSES: dict[type[CospecError], tuple[int, str]] = {
    QueueFull: (429, "queue_full"),
    EngineStopped: (503, "not_serving"),
    MissingExtra: (501, "not_installed"),
    MemberFailed: (500, "member_failed"),
    PluginFailed: (500, "plugin_failed"),
}
# Fields of a request that may be the first word of an error's message, or its kind.
_NAMED = {*(field.name for field in fields(SamplingParams)), "schedule", "verification", "gamma"}


class ApiError(Exception):
    """An error with its HTTP status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, object]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(SECONDS_TO_RETRY)} if self.status == 429 else {}
        return JSONResponse(self.body(), self.status, headers)


def as_api_error(error: ApiError | CospecError) -> ApiError:
    """An error of the library with its HTTP status; an ApiError stays as it is."""
    if isinstance(error, ApiError):
        return error
    for kind, (status, code) in _STATUSES.items():
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code)
    return ApiError(400, printable(str(error)), param=_param(error))


@contextmanager
def about(param: str) -> Iterator[None]:
    """What is said of a prompt within is about this field of the request."""
    try:
        yield
    except InvalidPrompt as error:
        raise ApiError(400, printable(str(error)), param=param) from error


def install(app: FastAPI) -> None:
    """Answer every error of this application in OpenAI's shape."""

    @app.exception_handler(ApiError)
    @app.exception_handler(CospecError)
    async def _own(request: Request, error: ApiError | CospecError) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["loc"] == ("body",) and not _is_json(request):
            given = request.headers.get("content-type")
            what = f"has the Content-Type {given!r:.100}" if given else "has no Content-Type"
            return ApiError(400, f"the body {what}; send `Content-Type: application/json`").response()
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", first["msg"])
            return ApiError(
                400, printable(f"the body is no JSON: {reason}, at character {first['loc'][-1]}")
            ).response()
        param = ".".join(str(part) for part in first["loc"][1:] if not _is_kind(part)) or None
        return ApiError(400, printable(f"{param or 'body'}: {first['msg']}"), param=param).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        answer = ApiError(error.status_code, str(error.detail)).response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        # The exception may hold a client's text: it stands in the server's log only.
        return ApiError(500, "the server failed; its log says why").response()


def _is_json(request: Request) -> bool:
    """Whether the body is said to be JSON, by the rule that FastAPI reads it by."""
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    return kind.get_content_subtype() == "json" or kind.get_content_subtype().endswith("+json")


def _is_kind(part: int | str) -> bool:
    """Whether a part of a field's path names one of the types that the field may have, instead of a field."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or not part.isidentifier())


def _param(error: CospecError) -> str | None:
    """The request's field that an error is about, as far as its type or the first word of its message show."""
    named = error.kind if isinstance(error, UnknownName) else str(error).partition(" ")[0]
    if named in _NAMED:
        return named
    if isinstance(error, InvalidCombination):
        return "weights"
    return "schedule" if isinstance(error, InvalidSchedule) else None


def printable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
