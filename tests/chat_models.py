"""Tiny models on disk that know chats: random weights, and a chat template that wants turns."""

from pathlib import Path

from .cli_models import tokenizer, write_model

# `<|role|>content` a line; the system message first, and questions and answers in turn.
TEMPLATE = """{%- for message in messages -%}
{%- if (message.role == 'user') != ((loop.index0 - (1 if messages[0].role == 'system' else 0)) % 2 == 0)
    and message.role != 'system' -%}
{{- raise_exception('questions and answers must take turns') -}}
{%- endif -%}
{{- '<|' + message.role + '|>' + message.content + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def write_chat_models(folder: Path) -> Path:
    """`a` and `b` have a chat template, `plain` has none."""
    shared = tokenizer(300)
    write_model(folder / "plain", shared, seed=2)
    shared.chat_template = TEMPLATE
    for seed, name in enumerate(("a", "b")):
        write_model(folder / name, shared, seed)
    return folder
