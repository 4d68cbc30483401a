"""What clients send: OpenAI's fields, those that serving engines add, and our own. Others change nothing."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .errors import ApiError

MOST_SAMPLES = 128
MOST_LOGPROBS = 20
# What each token is held against: more than anyone needs, and so few that a text does not hold up the others.
MOST_STOPS, MOST_STOP_CHARACTERS = 64, 1000
MOST_STOP_IDS = 256
MOST_BIASES = 1024

Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
# Neither true nor "1" is one.
TokenId = Annotated[int, Field(strict=True)]
StopString = Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]
StopStrings = Annotated[list[StopString], Field(max_length=MOST_STOPS)]
GivenStops = StopString | StopStrings


def _as_list(value: Any) -> Any:
    """A lone text is a list of one."""
    return [value] if isinstance(value, str) else value


Stops = Annotated[StopStrings, BeforeValidator(_as_list, json_schema_input_type=GivenStops)]


class StreamOptions(BaseModel):
    """Whether usage is told: in a last chunk, or in each."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(BaseModel):
    """OpenAI's: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None

    def schema_given(self) -> dict[str, Any]:
        """Raises ApiError if there is none."""
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise ApiError(400, "json_schema needs a schema", param="response_format")
        return schema


class StructuredOutputs(BaseModel):
    """What an answer keeps to, as vLLM's clients write it. Fields that it does not know are kept, to refuse
    some by name."""

    model_config = ConfigDict(extra="allow")

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class DecodingRequest(BaseModel):
    """What completions and chats have in common. Fields that it does not know are kept, to refuse some by name."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    best_of: int | None = None
    stop: Stops | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MOST_BIASES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    # What serving engines add.
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="0 or -1: off.")
    min_p: float | None = None
    member_temperature: float | None = Field(None, description="Of each member's row, before they are combined.")
    member_top_p: float | None = Field(None, description="The same for top_p.")
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MOST_STOP_IDS)] | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="A JSON schema that the answer keeps to.")
    guided_regex: str | None = Field(None, description="A regular expression that the whole answer matches.")
    guided_grammar: str | None = Field(None, description="A Lark grammar that the answer keeps to.")
    guided_choice: list[str] | None = Field(None, description="Texts, one of which is the answer.")
    structured_outputs: StructuredOutputs | None = Field(None, description="The same, as newer clients write it.")

    # Our own.
    schedule: str | None = Field(None, description="Who is fed next and who drafts; it changes the speed alone.")
    verification: str | None = Field(None, description="token, block or coupled.")
    weights: list[float] | None = Field(None, description="The members' weights, for combinations that have some.")
    trace: bool | None = Field(None, description="Stream who proposed, accepted and replaced each token, and more.")

    def unknown(self) -> dict[str, Any]:
        """The fields that are not known; those of structured_outputs under its name and theirs, with a dot between."""
        within = (self.structured_outputs and self.structured_outputs.model_extra) or {}
        return {**(self.model_extra or {}), **{f"structured_outputs.{name}": value for name, value in within.items()}}

    def sampling(self) -> dict[str, Any]:
        """The fields that are sampling parameters of the same name, as far as given."""
        names = (
            *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"),
            *("member_temperature", "member_top_p", "repetition_penalty", "logit_bias"),
            *("ignore_eos", "min_tokens", "stop", "stop_token_ids"),
        )
        given = {name: getattr(self, name) for name in names}
        if self.top_k == -1:
            given["top_k"] = 0
        return {name: value for name, value in given.items() if value is not None}

    def grammar(self) -> tuple[str, str | dict[str, Any]] | None:
        """The kind and source of the grammar asked for. Raises ApiError for more than one, or none in a schema."""
        also, format = self.structured_outputs or StructuredOutputs(json=None), self.response_format
        wants_object = bool(also.json_object) or (format is not None and format.type == "json_object")
        named: list[tuple[str, str | dict[str, Any] | None]] = [
            ("json_schema", self.guided_json),
            ("json_schema", also.json_schema),
            ("json_schema", {"type": "object"} if wants_object else None),
            ("json_schema", format.schema_given() if format is not None and format.type == "json_schema" else None),
            ("regex", self.guided_regex),
            ("regex", also.regex),
            ("lark", self.guided_grammar),
            ("lark", also.grammar),
            ("lark", _one_of(self.guided_choice)),
            ("lark", _one_of(also.choice)),
        ]
        asked = [(kind, source) for kind, source in named if source is not None]
        if len(asked) > 1:
            raise ApiError(400, f"{len(asked)} grammars were given; give one", param="response_format")
        if asked and self.min_tokens:
            raise ApiError(400, "min_tokens cannot be kept beside a grammar, which may end before", param="min_tokens")
        if asked and self.ignore_eos:
            raise ApiError(400, "ignore_eos beside a grammar would go on where the grammar ends", param="ignore_eos")
        return asked[0] if asked else None


class CompletionRequest(DecodingRequest):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


class Message(BaseModel):
    """One turn of a chat; content as a text or as parts, of which all must be texts."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    def text(self) -> str:
        """Raises ApiError for what is no text."""
        for name in ("tool_calls", "function_call"):
            if getattr(self, name):
                raise ApiError(400, f"messages with {name} cannot be read, only text", param="messages")
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


class TokenizeRequest(BaseModel):
    """`POST /tokenize`: of a text, or of a chat as it would be fed. Unknown fields are kept, to refuse some by name."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = Field(True, description="Those that the model wants in front of a text.")


class DetokenizeRequest(BaseModel):
    """`POST /detokenize`."""

    tokens: list[TokenId]


def _one_of(texts: list[str] | None) -> str | None:
    """A Lark grammar of one of these texts. Raises ApiError for none."""
    if texts is None:
        return None
    if not all(texts) or not texts:
        raise ApiError(400, "a choice needs texts, none of them empty", param="guided_choice")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
