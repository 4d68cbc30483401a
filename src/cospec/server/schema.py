"""Bodies of requests: OpenAI's fields, those that serving engines add, and our own; `fields.py` refuses others."""

import json
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ..core.params import SamplingParams
from .errors import ApiError

MOST_SAMPLES = 128
MOST_LOGPROBS = 20
# Limits on what every token is compared with: more than anyone needs, and few enough not to delay other sequences.
MOST_STOPS, MOST_STOP_CHARACTERS = 64, 1000
MOST_STOP_IDS = 256
MOST_BIASES = 1024
# Tokens drafted a turn. A longer block is never worth its forward pass, and holds up the other sequences.
MOST_GAMMA = 64
MOST_GAMMAS = 64

Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
# Strict: neither true nor "1" is a token id.
TokenId = Annotated[int, Field(strict=True)]
Gamma = Annotated[int, Field(strict=True, ge=1, le=MOST_GAMMA)]
Gammas = Annotated[list[Gamma], Field(min_length=1, max_length=MOST_GAMMAS)]
StopString = Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]
StopStrings = Annotated[list[StopString], Field(max_length=MOST_STOPS)]
GivenStops = StopString | StopStrings


def _as_list(value: Any) -> Any:
    """A single string is a list of one."""
    return [value] if isinstance(value, str) else value


def _off_as_zero(top_k: int) -> int:
    """vLLM's clients turn top_k off with -1."""
    return max(0, top_k)


TopK = Annotated[int, Field(ge=-1), AfterValidator(_off_as_zero)]
Stops = Annotated[StopStrings, BeforeValidator(_as_list, json_schema_input_type=GivenStops)]


class Body(BaseModel):
    """A body, or an object within one. Unknown fields are kept, so that they can be refused by name."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Body):
    """Whether a stream reports usage: in its last chunk, or in each."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(Body):
    """OpenAI's format of an answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None

    def schema_given(self) -> dict[str, Any]:
        """Raises ApiError if there is none."""
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise ApiError(400, "json_schema needs a schema", param="response_format")
        return schema


class StructuredOutputs(Body):
    """A grammar of the answer, as vLLM's clients write it."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class DecodingRequest(Body):
    """The fields that all endpoints that decode share."""

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
    response_format: ResponseFormat | None = None
    user: str | None = None

    # What serving engines add.
    top_k: TopK | None = Field(None, description="0 or -1: off.")
    min_p: float | None = None
    member_temperature: float | None = Field(None, description="Of each member's row, before they are combined.")
    member_top_p: float | None = Field(None, description="The same for top_p.")
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MOST_STOP_IDS)] | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="A JSON schema that the answer is valid under.")
    guided_regex: str | None = Field(None, description="A regular expression that the whole answer matches.")
    guided_grammar: str | None = Field(None, description="A Lark grammar that the answer follows.")
    guided_choice: list[str] | None = Field(None, description="Texts, one of which is the answer.")
    structured_outputs: StructuredOutputs | None = Field(None, description="The same, as newer clients write it.")

    # Our own.
    schedule: str | None = Field(None, description="Which model is fed next and which drafts; it changes speed alone.")
    gamma: Gamma | Gammas | Literal["auto"] | None = Field(
        None, description="Tokens drafted a turn: one number, one for each member, or auto; it changes speed alone."
    )
    verification: str | None = Field(None, description="token, block or coupled.")
    weights: list[float] | None = Field(None, description="The members' weights, for combinations that have them.")
    trace: bool | None = Field(None, description="Stream which model proposed or replaced each token, round by round.")

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters of the request: the fields above that SamplingParams has too, where they are set."""
        names = DecodingRequest.model_fields.keys() & {parameter.name for parameter in fields(SamplingParams)}
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def answer_format(self) -> ResponseFormat | None:
        """What form the answer is to have. Raises ApiError for two of them."""
        return self.response_format

    def grammar(self) -> tuple[str, str | dict[str, Any]] | None:
        """The kind and source of the grammar that the answer has to follow, if any.

        Raises ApiError for more than one, for a format without its schema, and beside fields that contradict a grammar.
        """
        newer, format = self.structured_outputs or StructuredOutputs(json=None), self.answer_format()
        wants_object = bool(newer.json_object) or (format is not None and format.type == "json_object")
        named: list[tuple[str, str | dict[str, Any] | None]] = [
            ("json_schema", self.guided_json),
            ("json_schema", newer.json_schema),
            ("json_schema", {"type": "object"} if wants_object else None),
            ("json_schema", format.schema_given() if format is not None and format.type == "json_schema" else None),
            ("regex", self.guided_regex),
            ("regex", newer.regex),
            ("lark", self.guided_grammar),
            ("lark", newer.grammar),
            ("lark", _one_of(self.guided_choice)),
            ("lark", _one_of(newer.choice)),
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
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": _PART}],
    "description": "A text, or parts that are texts. It may be null beside tool_calls.",
}


class Message(Body):
    """One turn of a chat; its content is a text, or a list of parts that are texts."""

    part_types: ClassVar[tuple[str, ...]] = ("text",)
    # What the document of the endpoints says: `turn` tells whoever leaves content out, or gives an image, in words.
    model_config = ConfigDict(json_schema_extra={"required": ["role", "content"]})

    role: Annotated[str, WithJsonSchema({"type": "string", "minLength": 1})]
    content: Annotated[str | list[dict[str, Any]] | None, WithJsonSchema(_CONTENT)] = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    def turn(self) -> dict[str, Any]:
        """The message for chat templates: role, content as one text, and what else the client gave, such as `name`.
        Raises ApiError for content that is no text."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        if self.function_call:
            raise ApiError(400, "messages with function_call cannot be read, only with tool_calls", param="messages")
        if self.content is None and (self.tool_calls or self.role != "assistant"):
            return given
        return {**given, "content": self.text()}

    def text(self) -> str:
        """The content as one text. Raises ApiError for anything else, such as an image."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.get("type") not in self.part_types or not isinstance(part.get("text"), str):
                raise ApiError(400, f"content of type {part.get('type')!r} cannot be read, only text", param="messages")
        return "".join(part["text"] for part in self.content)


TemplateKwargs = Annotated[
    dict[str, Any],
    Field(description='What each member\'s chat template is given beside the messages: `{"enable_thinking": false}`.'),
]


class ChatRequest(DecodingRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    chat_template_kwargs: TemplateKwargs | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


class InputMessage(Message):
    """A message in the input of a response."""

    part_types = ("input_text", "output_text", "text")

    type: str | None = None

    def turn(self) -> dict[str, Any]:
        """The same. Raises ApiError for an item of another type, such as a tool's result."""
        if self.type not in (None, "message"):
            raise ApiError(400, f"input of type {self.type!r:.100} cannot be read, only messages", param="input")
        # Templates know developers by their older name.
        return {**super().turn(), "role": "system" if self.role == "developer" else self.role}


class TextFormat(Body):
    """The format of a response's text: free, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(Body):
    """`text` of a response."""

    format: TextFormat | None = None


class ResponsesRequest(DecodingRequest):
    """`POST /v1/responses`."""

    input: str | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: str | None = Field(None, description="What stands in front of the input, as a system message.")
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    metadata: dict[str, str] | None = Field(None, description="Repeated in the answer.")

    def messages(self) -> list[Message]:
        """The chat that is to be answered. Raises ApiError for items that are no messages."""
        given = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        front = [Message(role="system", content=self.instructions)] if self.instructions else []
        return [*front, *given]

    def answer_format(self) -> ResponseFormat | None:
        format = self.text.format if self.text is not None else None
        if format is None:
            return self.response_format
        if self.response_format is not None:
            raise ApiError(400, "the format of a response is text.format; leave response_format out", param="text")
        return ResponseFormat(type=format.type, json_schema={"schema": format.json_schema})


class TokenizeRequest(Body):
    """`POST /tokenize`: a text, or a chat as it would be fed."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    add_special_tokens: bool = Field(True, description="The tokens that the model expects in front of a text.")


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[TokenId]


def _one_of(texts: list[str] | None) -> str | None:
    """A Lark grammar that matches exactly one of these texts. Raises ApiError where there are none."""
    if texts is None:
        return None
    if not all(texts) or not texts:
        raise ApiError(400, "a choice needs texts, none of them empty", param="guided_choice")
    # A single terminal: of as many rules each would be a state of its own.
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
