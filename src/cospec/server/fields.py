"""Fields of requests that are not supported: refused with the reason where they would change an answer, and with the
nearest known name where they look like a slip. What is left of the unknown ones is ignored."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import InvalidPrompt, UnknownName, shown
from .errors import ApiError, printable
from .schema import ChatRequest, CompletionRequest

# How alike a slip and a known name are at least, as difflib measures it: of four letters one may differ; where their
# lengths differ by more than one, they are more alike than that.
SLIP, LONG_SLIP = 0.75, 0.85
# Unknown names that are compared with the known ones, in one request.
MOST_COMPARED = 64
# Letters of a name that may be a slip; comparing a longer one would take its time.
LONGEST = 100

# Fields of OpenAI and of serving engines that change no answer here.
HARMLESS = frozenset(
    [
        *("store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("parallel_tool_calls", "prediction", "priority", "request_id", "cache_salt"),
    ]
)
# The same of messages, formats and a stream's options.
_HARMLESS_WITHIN = frozenset(["name", "refusal", "annotations", "tool_call_id", "id", "status", "include_obfuscation"])

# Field -> the neutral values that a client may send, and the reason why no other is supported.
Unsupported = Mapping[str, tuple[tuple[Any, ...], str]]

_TOOLS = "tools are not supported"
_PLAIN = "text is returned as it is decoded"
_WHITE = "the white space in JSON is a line's indentation at most"
_KWARGS = "chat_template_kwargs"
_OF_CHATS: Unsupported = {
    "add_generation_prompt": ((True,), "a chat is always answered"),
    "continue_final_message": ((False,), "a chat is always answered; use completions"),
    "chat_template": ((), "each member's own template is used"),
    _KWARGS: (({},), "use chat completions, whose members' templates are given them"),
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
    # Of other servers, where it would change the answer.
    "grammar": ((), "a grammar is called guided_grammar here"),
    "ebnf": ((), "a grammar, of Lark's, is called guided_grammar here"),
    "regex": ((), "a regular expression is called guided_regex here"),
    "json_schema": ((), "a schema is called guided_json here, or stands in response_format"),
    "guided_decoding": (({},), "give guided_json, guided_regex, guided_choice or guided_grammar"),
    "no_repeat_ngram_size": ((0,), "use frequency_penalty or repetition_penalty"),
    "stop_sequences": (([],), "they are called stop here"),
}
_LIMITS: Unsupported = dict.fromkeys(
    ("n_predict", "num_predict", "max_new_tokens", "max_output_tokens"), ((), "the limit is called max_tokens here")
)
IN_COMPLETIONS: Unsupported = {
    **_EVERYWHERE,
    **_LIMITS,
    "add_special_tokens": ((True,), "to leave out what the model wants in front, give the prompt as token ids"),
}
IN_CHATS: Unsupported = {
    **{name: entry for name, entry in _EVERYWHERE.items() if name != _KWARGS},
    **_LIMITS,
    "add_special_tokens": ((False,), "the template writes what the model wants in front"),
    "echo": ((False,), "a chat is not repeated; use completions"),
}
IN_TOKENIZE: Unsupported = {
    **{name: entry for name, entry in _OF_CHATS.items() if name != _KWARGS},
    "return_token_strs": ((False,), "tokens are reported by their ids"),
}
IN_DETOKENIZE: Unsupported = {}
IN_RESPONSES: Unsupported = {
    **_EVERYWHERE,
    "add_special_tokens": ((False,), "the template writes what the model wants in front"),
    "echo": ((False,), "a chat is not repeated; use completions"),
    "previous_response_id": ((), "answers are not stored; send the whole chat as input"),
    "conversation": ((), "answers are not stored; send the whole chat as input"),
    "store": ((False,), "answers are not stored"),
    "background": ((False,), "answers are not stored; wait for them, or stream them"),
    "include": (([],), "an answer has its text and its usage"),
    "prompt": ((), "templates are not stored; give the text as input"),
    "reasoning": (({},), "there is no setting for how long a model reasons"),
    "top_logprobs": ((0,), "use chat completions"),
    "stream_options": (({}, {"include_obfuscation": False}), "nothing is padded, and the last event has the usage"),
    "max_tool_calls": ((), _TOOLS),
    "truncation": (("disabled",), "shorten the input"),
    "text.verbosity": (("medium",), "there is no setting for how much a model says; use max_output_tokens"),
    "messages": ((), "the chat is called input here"),
    "max_tokens": ((), "the limit is called max_output_tokens here"),
    "max_completion_tokens": ((), "the limit is called max_output_tokens here"),
    "logprobs": ((False,), "use chat completions"),
}


class UnknownField(NamedTuple):
    """A field that an object of a body does not know. path: its name, behind those of the objects that it is in."""

    path: str
    value: Any
    known: frozenset[str]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def refuse_unsupported(body: BaseModel, table: Unsupported) -> None:
    """Raises ApiError for the first unknown field of the body, or within it, that would change the answer, with the
    reason, or that looks like a slip, with the name that is meant."""
    num_compared = 0
    for field in _unknown(body):
        if field.path in table:
            neutral, reason = table[field.path]
            if field.value is not None and field.value not in neutral:
                raise ApiError(
                    400,
                    f"{field.path} is not supported, got {field.value!r:.100}: {reason}; leave it out",
                    param=field.path,
                )
        elif not _is_harmless(field) and len(field.name) <= LONGEST:
            num_compared += 1
            if num_compared > MOST_COMPARED:
                raise ApiError(400, f"the request has more than {MOST_COMPARED} unknown fields; leave them out")
            inside = field.path.removesuffix(field.name)
            beside = (path.removeprefix(inside) for path in table if path.startswith(inside))
            _refuse_slip(field, [*field.known, *beside])


def _is_harmless(field: UnknownField) -> bool:
    return field.name in HARMLESS or (field.path != field.name and field.name in _HARMLESS_WITHIN)


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Raises UnknownName for a default that no request that decodes has, InvalidPrompt for a value that none takes."""
    names = {*_names(CompletionRequest), *_names(ChatRequest), *IN_COMPLETIONS, *IN_CHATS, *HARMLESS}
    known = sorted(name for name in names if "." not in name)
    for name in defaults:
        if name not in known:
            raise UnknownName("field in --defaults", name, known)
    fault: ErrorDetails | None = None
    message = {"role": "user", "content": "Once"}
    for kind, least in ((CompletionRequest, {"prompt": "Once"}), (ChatRequest, {"messages": [message]})):
        try:
            kind.model_validate({**least, **defaults})
            return
        except ValidationError as error:
            fault = fault or error.errors(include_url=False)[0]
    assert fault is not None
    name = str(fault["loc"][0])
    raise InvalidPrompt(f"--defaults: {name}: {fault['msg']}, got {shown(defaults.get(name))}")


def _unknown(body: BaseModel, path: str = "") -> Iterator[UnknownField]:
    """All fields that the body, and the objects in it, do not know."""
    known = frozenset(_names(type(body)))
    for name, value in (body.model_extra or {}).items():
        yield UnknownField(f"{path}{name}", value, known)
    for name in type(body).model_fields:
        value = getattr(body, name)
        inner = value if isinstance(value, list) else [value]
        # A list is of one kind: the ids of a long prompt are not looked at one by one.
        for each in inner if inner and isinstance(inner[0], BaseModel) else ():
            yield from _unknown(each, f"{path}{name}.")


def _names(kind: type[BaseModel]) -> Iterable[str]:
    """Its fields, as a client writes them."""
    return (field.alias or name for name, field in kind.model_fields.items())


def _refuse_slip(field: UnknownField, known: Iterable[str]) -> None:
    """Raises ApiError where the field is nearly one of the known ones: by letters, their case, or what joins words."""
    given, written = _letters(field.name), {_letters(name): name for name in known if "." not in name}
    for nearest in difflib.get_close_matches(given, written, cutoff=SLIP):
        if abs(len(nearest) - len(given)) <= 1 or difflib.get_close_matches(given, [nearest], cutoff=LONG_SLIP):
            path = printable(field.path)
            raise ApiError(400, f"unknown field {path!r}; did you mean {written[nearest]!r}?", param=path)


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()
