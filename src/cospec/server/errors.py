"""Errors as OpenAI's clients read them."""

from dataclasses import fields

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..core.params import SamplingParams
from ..errors import CospecError, InvalidCombination, InvalidSchedule, MemberFailed, MissingExtra, UnknownName
from .host import NotServing, QueueFull

SECONDS_TO_RETRY = 1
# Fields that an error of the library begins with, or names.
_NAMED = {*(field.name for field in fields(SamplingParams)), "schedule", "verification"}


class ApiError(Exception):
    """What is answered instead of a completion."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(SECONDS_TO_RETRY)} if self.status == 429 else {}

    def body(self) -> dict[str, object]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: ApiError | CospecError) -> ApiError:
    """The status that an error of the library has over HTTP; one that has it already stays."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full")
    if isinstance(error, NotServing):
        return ApiError(503, str(error), code="not_serving")
    if isinstance(error, MissingExtra):
        return ApiError(501, str(error), code="not_installed")
    if isinstance(error, MemberFailed):
        return ApiError(500, str(error), code="member_failed")
    return ApiError(400, _printable(str(error)), param=_param(error))


def install(app: FastAPI) -> None:
    """Every error of this application in OpenAI's shape."""

    @app.exception_handler(ApiError)
    @app.exception_handler(CospecError)
    async def _own(request: Request, error: ApiError | CospecError) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:] if not _is_kind(part)) or None
        return ApiError(400, _printable(f"{param or 'body'}: {first['msg']}"), param=param).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        answer = ApiError(error.status_code, str(error.detail)).response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        # What it was stands in the server's log, not in a stranger's answer.
        return ApiError(500, "the server failed; its log says why").response()


def _is_kind(part: int | str) -> bool:
    """Whether a part of a field's path names one of the types that it may have, and no field."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or not part.isidentifier())


def _param(error: CospecError) -> str | None:
    """The field of the request that an error is about, as far as its type or its first word say."""
    if isinstance(error, InvalidCombination):
        return "weights"
    if isinstance(error, InvalidSchedule):
        return "schedule"
    named = error.kind if isinstance(error, UnknownName) else str(error).partition(" ")[0]
    return named if named in _NAMED else None


def _printable(text: str) -> str:
    """JSON over HTTP is UTF-8, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode()
