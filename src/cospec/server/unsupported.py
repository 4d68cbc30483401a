"""Fields of OpenAI's and of other serving engines that would change an answer, and that are not supported here."""

from collections.abc import Mapping
from typing import Any

from .errors import ApiError

# A field -> the values that change nothing, with which clients may send it, and why no other is possible.
Table = Mapping[str, tuple[tuple[Any, ...], str]]

_TOOLS = "tools are not supported"
_PLAIN = "text is given back as it is decoded"
_WHITE = "the white space in JSON is a line's indentation at most"
_OF_CHATS: Table = {
    "add_generation_prompt": ((True,), "a chat is always answered"),
    "continue_final_message": ((False,), "a chat is always answered; use completions"),
    "chat_template": ((), "the first member's own template is used"),
    "chat_template_kwargs": (({},), "the first member's own template is used"),
    "documents": (([],), "write them into a message"),
    "tools": (([],), _TOOLS),
}
_EVERYWHERE: Table = {
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
    "return_tokens_as_token_ids": ((False,), "tokens are told by their text"),
    "guided_whitespace_pattern": ((), _WHITE),
    "structured_outputs.whitespace_pattern": ((), _WHITE),
    "structured_outputs.disable_any_whitespace": ((False,), _WHITE),
    "structured_outputs.disable_additional_properties": ((False,), "write additionalProperties into the schema"),
    "structured_outputs.structural_tag": ((), "give a schema, a regular expression, a choice or a grammar"),
}
IN_COMPLETIONS: Table = {
    **_EVERYWHERE,
    "add_special_tokens": ((True,), "to leave out what the model wants in front, give the prompt as token ids"),
}
IN_CHATS: Table = {
    **_EVERYWHERE,
    "add_special_tokens": ((False,), "the template writes what the model wants in front"),
    "echo": ((False,), "a chat is not repeated; use completions"),
}
IN_TOKENIZE: Table = {
    **_OF_CHATS,
    "return_token_strs": ((False,), "tokens are told by their ids"),
}


def refuse_unsupported(given: Mapping[str, Any], table: Table) -> None:
    """Raises ApiError for a field that would change the answer, with the reason. given: the fields not known."""
    for name, value in given.items():
        neutral, reason = table.get(name, ((value,), ""))
        if value is not None and value not in neutral:
            raise ApiError(400, f"{name} is not supported, got {value!r:.100}: {reason}; leave it out", param=name)
