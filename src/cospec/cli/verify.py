"""`cospec verify`: test on the user's own members and machine that the text is the target's."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidSampling
from ..interrupts import importing
from ..study.effort import Effort
from .chat_options import ChatOptions
from .options import LocalOptions
from .spread import option, spread

EXAMPLE = "cospec verify --ensemble demo:we --verification block --max-tokens 32"

NUM_DEMO_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """How much is compared, and in which form the result is printed."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts to compare on: a line each, a JSON string or an object with "prompt" or "messages".',
        show_default=f"{NUM_DEMO_PROMPTS} bundled prompts",
    )
    max_tokens: int = option(Effort.max_tokens, help="Tokens a text in the equality checks.")
    samples: int = option(Effort.num_samples, help="Samples a prompt in the sampled checks.")
    seed: int = option(Effort.seed, help="Of all draws.")
    vllm: str | None = option(
        None,
        metavar="URL",
        help="Hold a running vLLM server, which serves what `cospec export` wrote, against cospec's own engine.",
        show_default=False,
    )
    served: str | None = option(
        None, metavar="NAME", help="With --vllm: the model there.", show_default="the server's first"
    )
    api_key: str | None = option(None, help="With --vllm: one that the server knows.", envvar="VLLM_API_KEY")
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")

    def effort(self) -> Effort:
        """Raises InvalidSampling for sizes that compare nothing."""
        if self.max_tokens < 1 or self.samples < 20:
            raise InvalidSampling(
                f"--max-tokens must be at least 1 and --samples at least 20, got {self.max_tokens} and {self.samples}"
            )
        return Effort(max_tokens=self.max_tokens, num_samples=self.samples, seed=self.seed)


@spread
def verify(*, options: VerifyOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Prove on your own models that the output follows the target distribution.

    Each schedule is compared with plain decoding: coupled text and greedy text token by token, and samples with plain's
    and with the target's probabilities, under every verification, the ensemble's own first. Texts are equal, equal but
    for ties of rounding (by the gap between the two best tokens at a first difference; with --numerics invariant there
    are none), or not. The ensemble's own plan is among them; of auto also the plan that it chooses. Exit code 1 if a
    check fails.

    With --vllm a vLLM server is compared in place of schedules: its greedy text, its log-probabilities of given tokens
    with log r, and its samples.
    """
    with importing():
        from .verify_run import run_verify
    run_verify(options, chats, models)
