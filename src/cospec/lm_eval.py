"""lm-eval's model `cospec`: an ensemble in its tasks, by `lm_eval --model cospec --model_args ensemble=mine.yaml`.

`python -m cospec.lm_eval` takes the same arguments, for a lm-eval that does not know the name.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from . import lm_eval_name
from .core.events import Result
from .core.params import SamplingParams
from .core.tokens import TokenLogprob
from .ensemble import SEED_BITS, Ensemble
from .errors import InvalidPrompt, InvalidSampling, MemberFailed, MissingExtra, UnknownName, shown
from .prompts import Chat

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import maybe_truncate, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError:
    raise MissingExtra("lm-eval is not installed: pip install 'cospec[lm-eval]'") from None

# What lm-eval gives where nobody asked for a device.
_DEFAULT_DEVICE = "cuda:0"
# Of a task's generation_kwargs: those that are SamplingParams' own, and values of others that change nothing.
_NOT_A_TASKS = ("n", "max_tokens", "stop", "logprobs", "prompt_logprobs", "constraint")
_OWN = tuple(entry.name for entry in fields(SamplingParams) if entry.name not in _NOT_A_TASKS)
_NEUTRAL: Mapping[str, Sequence[object]] = {
    "do_sample": (True, False),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
    "skip_special_tokens": (True,),
}


class CospecLM(TemplateLM):  # type: ignore[misc, unused-ignore]  # lm-eval has no types
    """An ensemble as lm-eval's model.

    ensemble: a YAML file, a name such as `demo:we`, or an Ensemble. overrides: what Ensemble.load takes beside it
    (schedule, dtype, ...). batch_size: how many sequences are decoded at a time, the ensemble's max_sequences; `auto`
    leaves it as it is. device: for all members; lm-eval's default leaves the ensemble's own. max_length: the most
    tokens of context and answer, the members' context by default. max_gen_toks: the most tokens of an answer whose task
    names no number. seed: of sampled answers; by default that of torch, which lm-eval sets from its own --seed.
    prefix_token_id: what stands before an empty context, the tokenizer's begin token or else its end by default.

    Raises what Ensemble.load raises.
    """

    def __init__(
        self,
        ensemble: str | Ensemble,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int | None = None,
        prefix_token_id: int | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        given = {
            "max_sequences": _as_count(batch_size, max_batch_size),
            "device": None if device == _DEFAULT_DEVICE else device,
        }
        overrides |= {name: value for name, value in given.items() if value is not None}
        self.ensemble = ensemble if isinstance(ensemble, Ensemble) else Ensemble.load(ensemble, **overrides)
        tokenizer: Any = self.ensemble.tokenizer
        if tokenizer is None:
            raise InvalidPrompt("lm-eval's tasks are texts, and these members have no tokenizer")
        self._tokenizer = tokenizer
        self.batch_size = self.ensemble.max_sequences
        self.max_gen_toks = max_gen_toks
        members = self.ensemble.runners[: len(self.ensemble.member_names)]
        contexts = [runner.context for runner in members if runner.context is not None]
        self.max_length = max_length or min(contexts, default=None)
        self._seed = torch.initial_seed() % 2**SEED_BITS if seed is None else seed
        self._prefix = prefix_token_id
        # Chats that lm-eval was given as texts, to be given to each member by its own template.
        self._chats: dict[str, Chat] = {}

    # Tokens, as lm-eval asks for them.

    @property
    def eot_token_id(self) -> int:
        if not self.ensemble.end_ids:
            raise InvalidPrompt("an empty context is scored behind a begin or end token, and these members have none")
        return self.ensemble.end_ids[0]

    @property
    def prefix_token_id(self) -> int:
        begin = self._begin
        return next((id for id in (self._prefix, begin) if id is not None), None) or self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Special tokens are added in front, unless told otherwise or the text has them already, as a chat does."""
        begin = self._spelled(self._begin)
        is_bare = add_special_tokens is False or (add_special_tokens is None and begin and string.startswith(begin))
        encode = getattr(self._tokenizer, "encode_bare", None) if is_bare else None
        return [*(encode or self._tokenizer.encode)(string)]

    @property
    def _begin(self) -> int | None:
        begins = [id for id, text in self._special.items() if text == self._info.get("bos_token")]
        return next(iter(begins), None)

    @property
    def _info(self) -> Mapping[str, Any]:
        return self._tokenizer.info() if hasattr(self._tokenizer, "info") else {}

    @property
    def _special(self) -> Mapping[int, str]:
        special: Mapping[int, str] = getattr(self._tokenizer, "special", {})
        return special

    def _spelled(self, token: int | None) -> str:
        return "" if token is None else self._special.get(token, "")

    # Chats: lm-eval renders them itself, by this template, and what it asks is the text.

    @property
    def tokenizer_name(self) -> str:
        return str(self.ensemble.sources[0].model).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template: str | None = self._info.get("chat_template")
        if isinstance(chat_template, str):
            raise InvalidPrompt(f"--apply_chat_template takes no name here, got {shown(chat_template)}")
        return template if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the text that the first member is given; without a generation prompt the last one is gone on
        with."""
        chat = Chat(messages=tuple(chat_history))
        text = self.ensemble.chat_text(chat, goes_on=not add_generation_prompt)
        if add_generation_prompt:
            self._chats[text] = chat
        return text

    # What is asked.

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_batching: object,
    ) -> list[tuple[float, bool]]:
        """log r of each continuation behind its context, and whether r would have written it at temperature 0."""
        prompts, params = zip(*(self._asked(*request) for request in requests), strict=True)
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for index, result in self._decoded(prompts, params, "log-likelihoods", disable_tqdm):
            key, _, answer = requests[index]
            # Of a written answer all entries are its own.
            entries = result.logprobs or [*filter(None, result.prompt_logprobs or ())][-len(answer) :]
            scores[index] = _score(entries)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, scores[index])
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log r of whole texts, in windows of the members' context, each token with as much before it as there is."""
        windows = []
        for index, (string,) in enumerate(request.args for request in requests):
            ids = self.tok_encode(string, add_special_tokens=False)
            # A window has a token before those that it scores.
            most = len(ids) if self.max_length is None else self.max_length - 1
            found = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=most or 1, context_len=1)
            windows += [(index, *make_disjoint_window(window)) for window in found]
        scores = self._loglikelihood_tokens(
            [(None, context, answer) for _, context, answer in windows], disable_tqdm=disable_tqdm
        )
        sums = [0.0] * len(requests)
        for (index, *_), (score, _) in zip(windows, scores, strict=True):
            sums[index] += score
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """An answer each, by its task's generation_kwargs. Raises InvalidSampling for one that is not known."""
        prompts: list[str | list[int] | Chat] = []
        params: list[SamplingParams] = []
        for index, request in enumerate(requests):
            context, asked = request.args
            own = _as_params(asked, self.max_gen_toks, self._seed + index)
            ids, prompt = self.tok_encode(context), self._apart(context)
            if self.max_length is not None:
                ids, _ = maybe_truncate(ids, max_gen_toks=own.max_tokens, max_model_len=self.max_length)
            prompts.append(prompt or ids)
            params.append(own)
        texts = [""] * len(requests)
        for index, result in self._decoded(prompts, params, "answers", disable_tqdm):
            texts[index] = result.text
            self.cache_hook.add_partial("generate_until", requests[index].args, result.text)
        return texts

    def _apart(self, context: str) -> str | Chat | None:
        """The context as the members are to be given it that are not all given the same; None where they are."""
        prompt = self._chats.get(context) or (context if context and self.ensemble.has_own_prompts else None)
        if prompt is None:
            return None
        # Token ids cannot be put behind a system message of a member's own.
        lanes = {*self.ensemble.rendered(prompt)[: len(self.ensemble.member_names)]}
        return prompt if len(lanes) > 1 or self.ensemble.has_own_prompts else None

    def _asked(
        self, key: tuple[str, str] | None, context: list[int], answer: list[int]
    ) -> tuple[str | list[int] | Chat, SamplingParams]:
        """A prompt and parameters under which the log-probabilities that are reported last are the answer's."""
        prompt = self._apart(key[0]) if key else None
        if prompt is None and not self.ensemble.has_own_prompts:
            # The last token is never fed, and cut is what stands furthest in front.
            ids = [*context, *answer][-(self.max_length or 0) :]
            return ids, SamplingParams(max_tokens=0, prompt_logprobs=1)
        # Members of different prompts are asked to write the answer, and nothing else.
        if prompt is not None and key is not None:
            answer = self.tok_encode("".join(key))[len(self.tok_encode(key[0])) :]
        forced = Forced(answer, self.ensemble.vocab_size)
        params = SamplingParams(temperature=0, max_tokens=len(answer), logprobs=1, constraint=forced, ignore_eos=True)
        return prompt or context, params

    def _decoded(
        self, prompts: Sequence[str | list[int] | Chat], params: Sequence[SamplingParams], what: str, disable_tqdm: bool
    ) -> Iterator[tuple[int, Result]]:
        """Each result as it is finished, with the index of its prompt. Raises MemberFailed for one that failed."""
        with tqdm(total=len(prompts), desc=what, disable=disable_tqdm) as progress:
            for event in self.ensemble.stream([*prompts], [*params]):
                if event.result is None:
                    continue
                if event.result.error is not None:
                    raise MemberFailed(event.result.error)
                progress.update()
                yield event.prompt_index, event.result


class Forced:
    """The constraint that an answer is these tokens."""

    def __init__(self, answer: Sequence[int], vocab_size: int) -> None:
        self._answer = answer
        self._vocab_size = vocab_size

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab]: the answer's token alone, and all of them behind its end."""
        rows = torch.zeros(count, self._vocab_size, dtype=torch.bool)
        for row, position in enumerate(range(start, start + count)):
            rows[row, self._answer[position] if position < len(self._answer) else slice(None)] = True
        return rows


def _score(entries: Sequence[TokenLogprob]) -> tuple[float, bool]:
    is_greedy = all(entry.token == entry.top[0][0] for entry in entries)
    return math.fsum(entry.logprob for entry in entries), is_greedy


def _as_params(asked: Mapping[str, Any], max_gen_toks: int, seed: int) -> SamplingParams:
    """A task's generation_kwargs. Raises InvalidSampling for what would be ignored."""
    given = dict(normalize_gen_kwargs(dict(asked), max_gen_toks))
    stop, most = [text for text in given.pop("until") if text], given.pop("max_gen_toks")
    for name in [name for name in given if name not in _OWN]:
        if name not in _NEUTRAL:
            raise UnknownName("field of generation_kwargs", name, ["until", "max_gen_toks", "do_sample", *_OWN])
        if (value := given.pop(name)) not in _NEUTRAL[name]:
            raise InvalidSampling(f"generation_kwargs has {name} {shown(value)}, which is not supported here")
    own = {name: value for name, value in given.items() if value is not None}
    temperature = 1.0 if asked.get("do_sample") else 0.0
    return SamplingParams(**{"temperature": temperature, "seed": seed, **own}, stop=stop, max_tokens=most)


def _as_count(batch_size: int | str | None, most: int | None) -> int | None:
    """lm-eval's batch size as max_sequences; None for `auto`, unless that has a bound. Raises InvalidSampling."""
    if batch_size is None or str(batch_size).startswith("auto"):
        return most
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise InvalidSampling(f"batch_size must be a whole number of at least 1, or auto, got {shown(batch_size)}")
    return int(batch_size)


def main() -> None:
    """lm-eval's own command line, which knows the model `cospec`."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


lm_eval_name.register()
if __name__ == "__main__":
    main()
