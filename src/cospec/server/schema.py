"""Bodies of requests: OpenAI's fields, those that serving engines add, and our own.

Unknown fields are ignored, except those of OpenAI and of serving engines that would change an answer and are not
supported: they are refused with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..core.params import SamplingParams
from .errors import ApiError

MOST_SAMPLES = 128
MOST_LOGPROBS = 20
# Limits on what every token is compared with: more than anyone needs, and few enough not to delay other sequences.
MOST_STOPS, MOST_STOP_CHARACTERS = 64, 1000
MOST_STOP_IDS = 256
MOST_BIASES = 1024

Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
# Strict: neither true nor "1" is a token id.
TokenId = Annotated[int, Field(strict=True)]
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


class StreamOptions(BaseModel):
    """Whether a stream reports usage: in its last chunk, or in each."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(BaseModel):
    """OpenAI's format of an answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None

    def schema_given(self) -> dict[str, Any]:
        """Raises ApiError if there is none."""
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise ApiError(400, "json_schema needs a schema", param="response_format")
        return schema


class StructuredOutputs(BaseModel):
    """A grammar of the answer, as vLLM's clients write it. Unknown fields are kept, so that some can be refused by
    name."""

    model_config = ConfigDict(extra="allow")

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class DecodingRequest(BaseModel):
    """The fields that completions and chats share. Unknown fields are kept, so that some can be refused by name."""

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
    verification: str | None = Field(None, description="token, block or coupled.")
    weights: list[float] | None = Field(None, description="The members' weights, for combinations that have them.")
    trace: bool | None = Field(None, description="Stream which model proposed or replaced each token, round by round.")

    def unknown(self) -> dict[str, Any]:
        """The unknown fields by name; those within structured_outputs as `structured_outputs.name`."""
        within = (self.structured_outputs and self.structured_outputs.model_extra) or {}
        return {**(self.model_extra or {}), **{f"structured_outputs.{name}": value for name, value in within.items()}}

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters of the request: the fields above that SamplingParams has too, where they are set."""
        names = DecodingRequest.model_fields.keys() & {parameter.name for parameter in fields(SamplingParams)}
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def grammar(self) -> tuple[str, str | dict[str, Any]] | None:
        """The kind and source of the grammar that the answer has to follow, if any.

        Raises ApiError for more than one, for a format without its schema, and beside fields that contradict a grammar.
        """
        newer, format = self.structured_outputs or StructuredOutputs(json=None), self.response_format
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
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


class Message(BaseModel):
    """One turn of a chat; its content is a text, or a list of parts that are texts."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    def text(self) -> str:
        """The content as one text. Raises ApiError for anything else, such as an image or a tool's call."""
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
    """`POST /tokenize`: a text, or a chat as it would be fed. Unknown fields are kept, to refuse some by name."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = Field(True, description="The tokens that the model expects in front of a text.")


class DetokenizeRequest(BaseModel):
    """`POST /detokenize`."""

    tokens: list[TokenId]


def _one_of(texts: list[str] | None) -> str | None:
    """A Lark grammar that matches exactly one of these texts. Raises ApiError where there are none."""
    if texts is None:
        return None
    if not all(texts) or not texts:
        raise ApiError(400, "a choice needs texts, none of them empty", param="guided_choice")
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


# Field -> the neutral values that a client may send, and the reason why no other is supported.
Unsupported = Mapping[str, tuple[tuple[Any, ...], str]]

_TOOLS = "tools are not supported"
_PLAIN = "text is returned as it is decoded"
_WHITE = "the white space in JSON is a line's indentation at most"
_OF_CHATS: Unsupported = {
    "add_generation_prompt": ((True,), "a chat is always answered"),
    "continue_final_message": ((False,), "a chat is always answered; use completions"),
    "chat_template": ((), "the first member's own template is used"),
    "chat_template_kwargs": (({},), "the first member's own template is used"),
    "documents": (([],), "write them into a message"),
    "tools": (([],), _TOOLS),
}
_EVERYWHERE: Unsupported = {
    **_OF_CHATS,
    "tool_choice": (("none", "auto"), _TOOLS),
    "functions": (([],), _TOOLS),
    "function_call": (("none", "auto"), _TOOLS),
    "modalities": ((["text"],), "only text is written"),
    "audio": ((), "only text is written"),
    "web_search_options": ((), "nothing is searched for"),
    "reasoning_effort": (("none",), "there is no setting for how long a model reasons"),
    "verbosity": (("medium",), "there is no setting for how much a model says; use max_tokens"),
    "suffix": (("",), "text is only continued at its end"),
    "use_beam_search": ((False,), "texts are sampled, not searched"),
    "length_penalty": ((1, 0), "texts are sampled, not searched"),
    "allowed_token_ids": (([],), "use logit_bias or a grammar"),
    "bad_words": (([],), "use logit_bias or a grammar"),
    "logits_processors": (([],), "use logit_bias or a grammar"),
    "prompt_logprobs": ((), "use echo with logprobs"),
    "prompt_embeds": ((), "give the prompt as text or token ids"),
    "truncate_prompt_tokens": ((), "shorten the prompt"),
    "include_stop_str_in_output": ((False,), "a text ends before its stop string"),
    "skip_special_tokens": ((True,), _PLAIN),
    "spaces_between_special_tokens": ((True,), _PLAIN),
    "return_tokens_as_token_ids": ((False,), "tokens are reported by their text"),
    "guided_whitespace_pattern": ((), _WHITE),
    "structured_outputs.whitespace_pattern": ((), _WHITE),
    "structured_outputs.disable_any_whitespace": ((False,), _WHITE),
    "structured_outputs.disable_additional_properties": ((False,), "write additionalProperties into the schema"),
    "structured_outputs.structural_tag": ((), "give a schema, a regular expression, a choice or a grammar"),
}
IN_COMPLETIONS: Unsupported = {
    **_EVERYWHERE,
    "add_special_tokens": ((True,), "to leave out what the model wants in front, give the prompt as token ids"),
}
IN_CHATS: Unsupported = {
    **_EVERYWHERE,
    "add_special_tokens": ((False,), "the template writes what the model wants in front"),
    "echo": ((False,), "a chat is not repeated; use completions"),
}
IN_TOKENIZE: Unsupported = {
    **_OF_CHATS,
    "return_token_strs": ((False,), "tokens are reported by their ids"),
}


def refuse_unsupported(given: Mapping[str, Any], table: Unsupported) -> None:
    """Raises ApiError with the reason for the first of the unknown fields `given` that would change the answer."""
    for name, value in given.items():
        neutral, reason = table.get(name, ((value,), ""))
        if value is not None and value not in neutral:
            raise ApiError(400, f"{name} is not supported, got {value!r:.100}: {reason}; leave it out", param=name)
