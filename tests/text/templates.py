"""Chat templates of each kind that models have, and members of one vocabulary that read chats by them."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cospec import Member
from cospec.runner.hf.tokenizer import HfTokenizer
from cospec.toy import FunctionRunner

from .tokenizers import byte_fallback, byte_level, finished

# SmolLM2's: a system message of its own where the chat has none, and no BOS.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's, which writes BOS itself and trims.
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_end|>\n\n' }}"
    "{{ message['content'] | trim + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{% endif %}"
)
# As Gemma's: no system message, roles that alternate, and BOS.
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<|im_start|>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# As Mistral's: a system message goes into the user's, and roles alternate behind it.
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' and loop.first %}{% set ns.system = message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported, with one system message in front') }}"
    "{% endif %}{% endfor %}"
)
# As SmolVLM's: contents are lists of parts, and a text in their place is left out.
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
# What else a message may have: the speaker's name, and a tool's calls and answers.
TOOLS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}"
    "{% if message['name'] %} {{ message['name'] }}{% endif %}{{ '\n' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}"
    "{% if message['tool_call_id'] %} of {{ message['tool_call_id'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's, which thinks unless told otherwise.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}none\n\n{% endif %}"
)
# One that leaves system messages out in silence, and one with a fault of its own.
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] + ': ' + message['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
ADDS = "{{ messages[0]['content'] + 1 }}"
TEMPLATES = {"smollm2": SMOLLM2, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "tools": TOOLS}
_OTHERS = {"thinking": THINKING, "parts": PARTS, "no system": NO_SYSTEM, "adds": ADDS}

# The vocabularies, in which a text gets BOS in front, or none.
_WORDS: Mapping[str, Any] = {"byte-level": byte_level, "byte fallback": byte_fallback}


@cache
def _words(kind: str) -> str:
    words: Tokenizer = _WORDS[kind]()
    return words.to_str()


@cache
def tokenizer(template: str | None, kind: str = "byte-level", *, bos: bool = True) -> PreTrainedTokenizerFast:
    """One of the vocabulary's tokenizers, with the template of that name. bos: whether a text gets BOS in front."""
    made = finished(Tokenizer.from_str(_words(kind)), bos=bos)
    made.chat_template = {**TEMPLATES, **_OTHERS}[template] if template else None
    return made


def rows(size: int, seed: int) -> Any:
    def fn(prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((seed, prefix[-1], len(prefix), sum(prefix))) % 2**31)
        return torch.randn(size, dtype=torch.float64, generator=generator) * 3

    return fn


@cache
def runner(template: str | None, *, seed: int = 0, kind: str = "byte-level", bos: bool = True) -> FunctionRunner:
    """A random model of this tokenizer, whose rows depend on the whole of what it was given."""
    source = tokenizer(template, kind, bos=bos)
    end = source.convert_tokens_to_ids("<|im_end|>")
    return FunctionRunner(len(source), rows(len(source), seed), end_ids=(end,), tokenizer=HfTokenizer(source))


def member(template: str | None, *, seed: int = 0, kind: str = "byte-level", bos: bool = True, **own: Any) -> Member:
    return Member(model=runner(template, seed=seed, kind=kind, bos=bos), name=f"m{seed}", **own)
