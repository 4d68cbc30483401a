"""What clients send: OpenAI's fields, those that serving engines add, and our own. Others are ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import ApiError

MOST_SAMPLES = 128
MOST_LOGPROBS = 20


class StreamOptions(BaseModel):
    """Whether usage is told: in a last chunk, or in each."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(BaseModel):
    """OpenAI's: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None


class DecodingRequest(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    # What serving engines add.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="A JSON schema that the answer keeps to.")
    guided_regex: str | None = Field(None, description="A regular expression that the whole answer matches.")
    guided_grammar: str | None = Field(None, description="A Lark grammar that the answer keeps to.")

    # Our own.
    schedule: str | None = Field(None, description="Who is fed next and who drafts; it changes the speed alone.")
    verification: str | None = Field(None, description="token, block or coupled.")
    weights: list[float] | None = Field(None, description="The members' weights, for combinations that have some.")
    trace: bool | None = Field(None, description="Stream who proposed, accepted and replaced each token, and more.")

    def sampling(self) -> dict[str, Any]:
        """The fields that are sampling parameters of the same name, as far as given."""
        names = (
            *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "logit_bias", "ignore_eos", "min_tokens", "stop", "stop_token_ids"),
        )
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def grammar(self) -> tuple[str, str | dict[str, Any]] | None:
        """The kind and source of the grammar asked for. Raises ApiError for more than one, or none in a schema."""
        named = {"json_schema": self.guided_json, "regex": self.guided_regex, "lark": self.guided_grammar}
        asked = [(kind, source) for kind, source in named.items() if source is not None]
        wanted = self.response_format
        if wanted is not None and wanted.type == "json_object":
            asked.append(("json_schema", {"type": "object"}))
        elif wanted is not None and wanted.type == "json_schema":
            schema = (wanted.json_schema or {}).get("schema")
            if not isinstance(schema, dict):
                raise ApiError(400, "json_schema needs a schema", param="response_format")
            asked.append(("json_schema", schema))
        if len(asked) > 1:
            raise ApiError(400, f"{len(asked)} grammars were given; give one", param="response_format")
        return asked[0] if asked else None


class CompletionRequest(DecodingRequest):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    best_of: int | None = None
    suffix: str | None = None


class Message(BaseModel):
    """One turn of a chat; content as a text or as parts, of which all must be texts."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ApiError(400, f"content of type {part.get('type')!r} cannot be read, only text", param="messages")
        return "".join(part["text"] for part in self.content)


class ChatRequest(DecodingRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None


class TokenizeRequest(BaseModel):
    """`POST /tokenize`: of a text, or of a chat as it would be fed."""

    prompt: str | None = None
    messages: list[Message] | None = None


class DetokenizeRequest(BaseModel):
    """`POST /detokenize`."""

    tokens: list[int]


def refuse_unsupported(request: DecodingRequest, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ApiError for a field that would change the result and is not supported. neutral: what changes nothing."""
    for name, values in neutral.items():
        value = getattr(request, name)
        if value is not None and value not in values:
            raise ApiError(400, f"{name} is not supported, got {value!r}; leave it out", param=name)
