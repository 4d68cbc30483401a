"""Options of every command that decodes: which ensemble and plan, how tokens are drawn, and how it is served.

Each option is declared once; `spread` gives them to the commands. Defaults are those of the library.

Help texts and errors of the command line must come at once: what needs torch is imported by the methods that use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from typer import Option

from ..errors import InvalidCombination, InvalidEnsemble, InvalidSampling, InvalidSchedule, shown
from ..names import (
    COMBINATIONS,
    DEFAULT_COMBINATION,
    DEFAULT_MU,
    DEFAULT_SCALE,
    DEFAULT_SCHEDULE,
    DEFAULT_VERIFICATION,
    MAX_SEQUENCES,
    PLACEHOLDER,
    SCHEDULES,
    VERIFICATIONS,
)
from .spread import option

if TYPE_CHECKING:
    from ..ensemble import Ensemble
    from ..members import Member

DEFAULT_ENSEMBLE = "demo:we"
# The prompt that stands for standard input.
STDIN = "-"

# The option that sets each field of a combination.
_FLAGS = {"weights": "--weight", "mu": "--mu", "plausibility": "--plausibility", "scale": "--scale"}

_model_option = partial(option, rich_help_panel="Models and their combination")
_plan_option = partial(option, rich_help_panel="How it is decoded")
_sampling_option = partial(Option, rich_help_panel="How tokens are drawn, and where a sequence ends")


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Members, combination and plan. None where an option was not given: an ensemble file's own setting counts then."""

    ensemble: str | None = _model_option(
        None,
        metavar="NAME|FILE",
        help="A bundled ensemble (see cospec models) or a YAML file with members, combination and plan.",
        show_default=f"{DEFAULT_ENSEMBLE}, where no --member is given",
    )
    members: list[str] | None = _model_option(
        None,
        "--member",
        metavar="MODEL",
        help="A model: a local folder or GGUF file, a hub id, a bundled model such as demo:math, or SCHEME:... of an "
        "installed "
        "package. Once for each member.",
        show_default=False,
    )
    member_prompts: list[str] | None = _model_option(
        None,
        "--member-prompt",
        metavar="TEXT",
        help=f"A member's own prompt, in which {PLACEHOLDER} stands for PROMPT. Once for each --member, in order.",
        show_default=False,
    )
    combine: str | None = _model_option(
        None,
        metavar="NAME",
        help="How the members' distributions become r, which tokens are drawn from: "
        f"{', '.join(sorted(COMBINATIONS.names()))}.",
        show_default="ensemble's, else mixture",
    )
    weights: list[float] | None = _model_option(
        None,
        "--weight",
        metavar="W",
        help="A member's weight in a mixture, product or arithmetic combination. Once for each member, in order.",
        show_default="ensemble's, else equal",
    )
    mu: float | None = _model_option(
        None,
        metavar="X",
        help="Contrastive: the weight of the amateur, which is subtracted.",
        show_default=f"ensemble's, else {DEFAULT_MU}",
    )
    plausibility: float | None = _model_option(
        None,
        metavar="X",
        help="Contrastive: mask tokens whose probability under the expert is below this share of its highest.",
        show_default="ensemble's, else none",
    )
    scale: float | None = _model_option(
        None,
        metavar="X",
        help="Guided: 0 is the second member alone, 1 the first; above 1 goes further the same way.",
        show_default=f"ensemble's, else {DEFAULT_SCALE}",
    )
    dtype: str | None = _model_option(
        None,
        metavar="TYPE",
        help="The type that models compute in: float32, bfloat16, float16 or auto.",
        show_default="ensemble's, else auto",
    )
    numerics: str | None = _model_option(
        None,
        metavar="NAME",
        help="default or invariant: a row is then a function of the tokens before it alone, to the last bit, whatever "
        "is decoded beside it. On CPUs; models for which that cannot be proven are refused.",
        show_default="ensemble's, else default",
    )
    device: str | None = _model_option(
        None,
        metavar="DEVICE",
        help="The device that models run on: cpu, cuda, cuda:1, ...",
        show_default="cuda where there is one, else cpu",
    )
    quantization: str | None = _model_option(
        None,
        metavar="BITS|YAML",
        help="Quantise weights as they are loaded: 4bit or 8bit, by bitsandbytes, or a quantisation configuration of "
        "transformers, as keys and values.",
        show_default="ensemble's, else stored",
    )
    backend: str | None = _model_option(
        None,
        metavar="NAME",
        help="What runs GGUF files: llama.cpp, transformers, or auto: llama.cpp where it is installed, unless "
        "transformers alone does what is asked.",
        show_default="ensemble's, else auto",
    )
    gpu_layers: int | None = _model_option(
        None,
        metavar="N",
        help="How many layers of GGUF files llama.cpp puts on a GPU.",
        show_default="all, where it was built for one",
        min=0,
    )
    revision: str | None = _model_option(
        None,
        metavar="REV",
        help="The branch, tag or commit of models from the hub.",
        show_default="ensemble's, else main",
    )
    trust_remote_code: bool = _model_option(False, "--trust-remote-code", help="Run code that a model ships with.")
    allow_pickle: bool = _model_option(
        False, "--allow-pickle", help="Read weights that are pickles, which can run code."
    )
    schedule: str | None = _plan_option(
        None,
        metavar="NAME",
        help="Which member is fed next, and who proposes tokens. It changes the speed and never the distribution: "
        f"{', '.join(sorted(SCHEDULES.names()))}.",
        show_default=f"ensemble's, else {DEFAULT_SCHEDULE}",
    )
    gamma: list[str] | None = _plan_option(
        None,
        metavar="N|auto",
        help="How many tokens a proposer drafts a turn: once, or once for each member; or auto, as many as are "
        "likely to pay.",
        show_default="ensemble's or schedule's",
    )
    proposer: list[str] | None = _plan_option(
        None,
        metavar="NAME|MODEL",
        help="Who drafts: a member's name, a model of the same tokenizer that only drafts, lookup (what followed "
        "the same tokens in the sequence) or lookup+past (in finished sequences too). Of several, auto "
        "picks, and mixture gives each member its own.",
        show_default="ensemble's, else the first",
    )
    first: str | None = _plan_option(
        None,
        metavar="NAME",
        help="The member that is fed first where nothing is drafted (alternate), or that is drafted for (cascade).",
        show_default="ensemble's, else the first",
    )
    verification: str | None = _plan_option(
        None,
        metavar="NAME",
        help=f"How drafts are verified: {', '.join(VERIFICATIONS)}. All preserve the distribution; block accepts "
        "more, and coupled output depends on --seed alone, but for ties of rounding without --numerics invariant.",
        show_default=f"ensemble's, else {DEFAULT_VERIFICATION}",
    )
    reproducible: bool = _plan_option(
        False,
        "--reproducible",
        help="The same as --verification coupled --numerics invariant: a seed has one text, whatever the schedule, the "
        "drafters and the batch, in bfloat16 as in float32.",
    )

    no_keep: bool = _plan_option(
        False,
        "--no-keep",
        help="Let auto begin with nothing, and keep nothing of what it measures; else costs and acceptances are kept "
        "beside the ensemble's file, or in the folder COSPEC_CACHE (~/.cache/cospec).",
    )

    @property
    def name(self) -> str:
        """The name of the ensemble where it is not given one."""
        return self.ensemble or "+".join(self.members or []) or DEFAULT_ENSEMBLE

    def build(self) -> "Ensemble":
        """The ensemble, its models loaded. Raises a CospecError for options that do not go together."""
        from ..ensemble import Ensemble

        spec, settings = self._given()
        keeps = not self.no_keep
        if spec is None:
            return Ensemble(**settings, keep_measurements=keeps)
        return Ensemble.load(spec, **settings, keep_measurements=keeps)

    def identity(self) -> dict[str, Any]:
        """What results are held against by a later run (see `cospec.identity`), without loading a model. Raises as
        `build` does."""
        from ..identity import identity

        return identity(self.settings())

    def settings(self) -> dict[str, Any]:
        """The arguments of `Ensemble`, without loading a model. Raises as `build` does."""
        from ..files import read_settings

        spec, settings = self._given()
        return settings if spec is None else read_settings(spec, settings)

    def max_sequences_of_file(self) -> int:
        """How many sequences the ensemble's file has decoded at a time, without loading a model. Raises as `build`."""
        return int(self.settings().get("max_sequences", MAX_SEQUENCES))

    def _given(self) -> tuple[str | None, dict[str, Any]]:
        """The ensemble's file or name, None for members of the command line; and what is given beside it."""
        from ..core.combine import make_combination

        if self.ensemble is not None and self.members:
            raise InvalidEnsemble("--ensemble and --member exclude each other; give one of them")
        self._check_combination()
        options = self._combination_options()
        if self.members:
            combination = make_combination(self.combine or DEFAULT_COMBINATION, len(self.members), **options)
            return None, {"members": self._members(self.members), "combine": combination, **self._settings()}
        if self.member_prompts:
            raise InvalidEnsemble("--member-prompt goes with --member; an ensemble file has its own `prompt:` entries")
        combine = {"type": self.combine} | options if self.combine else options or None
        return self.ensemble or DEFAULT_ENSEMBLE, {"combine": combine, **self._settings()}

    def _members(self, models: list[str]) -> "list[Member]":
        from ..members import Member

        prompts: list[str] | list[None] = self.member_prompts or [None] * len(models)
        if len(prompts) != len(models):
            raise InvalidEnsemble(
                f"{len(prompts)} --member-prompt for {len(models)} --member; give one each, "
                f"{PLACEHOLDER!r} where PROMPT is to stand as it is"
            )
        return [Member(model=model, prompt=prompt) for model, prompt in zip(models, prompts, strict=True)]

    def _combination_options(self) -> dict[str, Any]:
        given = {"weights": self.weights, "mu": self.mu, "plausibility": self.plausibility, "scale": self.scale}
        return {name: value for name, value in given.items() if value not in (None, [])}

    def _check_combination(self) -> None:
        """Raises InvalidCombination for an option that the combination does not have."""
        from ..core.combine import combination_options

        kind = self.combine or (DEFAULT_COMBINATION if self.members else None)
        if kind not in COMBINATIONS.names():
            return
        for name in self._combination_options():
            if name not in combination_options(kind):
                takers = [other for other in sorted(COMBINATIONS.names()) if name in combination_options(other)]
                raise InvalidCombination(f"{_FLAGS[name]} has no meaning for {kind}; it goes with {', '.join(takers)}")

    def _settings(self) -> dict[str, Any]:
        """The plan and the load options, as far as given."""
        from ..schedule import as_gamma

        proposers = self.proposer or []
        settings = {
            "schedule": self.schedule,
            "gamma": as_gamma(self.gamma or []),
            "proposer": proposers[0] if len(proposers) == 1 else proposers or None,
            "first": self.first,
            "verification": self._verification(),
            "dtype": self.dtype,
            "numerics": self._numerics(),
            "device": self.device,
            "quantization": as_quantization(self.quantization),
            "backend": self.backend,
            "gpu_layers": self.gpu_layers,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code or None,
            "allow_pickle": self.allow_pickle or None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _verification(self) -> str | None:
        return self._reproducible("verification", self.verification, "coupled")

    def _numerics(self) -> str | None:
        return self._reproducible("numerics", self.numerics, "invariant")

    def _reproducible(self, name: str, given: str | None, meant: str) -> str | None:
        """What was given, or what --reproducible means. Raises InvalidSchedule where they exclude each other."""
        if not self.reproducible:
            return given
        if given not in (None, meant):
            raise InvalidSchedule(
                f"--reproducible is --{name} {meant}, and --{name} {given} was given too; leave one out"
            )
        return meant


@dataclass(frozen=True, kw_only=True)
class LocalOptions(EnsembleOptions):
    """The same, and how much of this machine decoding takes; `serve` and `batch` have these with defaults of their
    own, and `bench` measures at the numbers of sequences that it is given."""

    max_sequences: int | None = _plan_option(
        None,
        metavar="N",
        help="Sequences decoded at a time.",
        show_default=f"ensemble's, else {MAX_SEQUENCES}",
        min=1,
    )
    threads: int | None = _plan_option(
        None,
        metavar="N",
        help="CPU threads.",
        show_default="as torch has them; generate, chat and serve take fewer where others use the cores",
        min=1,
    )

    def build(self) -> "Ensemble":
        """The ensemble, its models loaded, and decoding limited to these threads. Raises a CospecError for options
        that do not go together."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return super().build()

    def _settings(self) -> dict[str, Any]:
        given = {} if self.max_sequences is None else {"max_sequences": self.max_sequences}
        return super()._settings() | given


def as_quantization(text: str | None) -> Any:
    """What LoadOptions takes, from its name or from keys and values in YAML. Raises InvalidEnsemble for no YAML."""
    try:
        return None if text is None else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidEnsemble(f"--quantization is 4bit, 8bit or YAML, got {shown(text)}: {reason}") from None


# The options for fields of SamplingParams, whose names, types and defaults they have.
SAMPLING = {
    "max_tokens": _sampling_option(min=1, metavar="N", help="The most tokens a sequence may have."),
    "min_tokens": _sampling_option(metavar="N", help="The fewest tokens a sequence may have."),
    "temperature": _sampling_option(
        metavar="X", help="Above 1 is more varied, below 1 less; 0 is the most probable token."
    ),
    "top_p": _sampling_option(metavar="X", help="Keep the most probable tokens, of this probability together. 1: all."),
    "top_k": _sampling_option(metavar="N", help="Keep so many of the most probable tokens. 0: all."),
    "min_p": _sampling_option(
        metavar="X", help="Keep tokens of at least this share of the highest probability. 0: all."
    ),
    "repetition_penalty": _sampling_option(
        metavar="X",
        help="Above 1, tokens of the prompt and the output become less probable, as strongly as in transformers.",
    ),
    "presence_penalty": _sampling_option(
        metavar="X", help="Subtracted from the logit of each token that the output has."
    ),
    "frequency_penalty": _sampling_option(metavar="X", help="The same, for each time that the output has it."),
    "seed": _sampling_option(
        metavar="N",
        help="The same seed gives the same text from the same command; beside other texts too, in float32 but for ties "
        "of rounding, in bfloat16 with --numerics invariant.",
        show_default="drawn anew",
    ),
    "stop": _sampling_option(metavar="TEXT", help="End before this text. May be repeated.", show_default=False),
    "stop_token_ids": _sampling_option(
        "--stop-token-id", metavar="ID", help="End with this token. May be repeated.", show_default=False
    ),
    "ignore_eos": _sampling_option("--ignore-eos", help="Go on past the models' end token."),
    "n": _sampling_option(metavar="N", help="Samples for each prompt."),
    "logprobs": _sampling_option(
        metavar="N",
        help="Report each token's log-probability and N alternatives: in a table, or with --json in it.",
        show_default="none",
    ),
}

Biases = Annotated[
    list[str] | None,
    _sampling_option(
        "--logit-bias",
        metavar="ID=BIAS",
        help="Added to a token's logit; -inf forbids it. Any number of times.",
        show_default=False,
    ),
]


def as_biases(pairs: Sequence[str]) -> dict[int, float]:
    """ID=BIAS pairs as a mapping. Raises InvalidSampling."""
    biases = {}
    for pair in pairs:
        token, _, bias = pair.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise InvalidSampling(f"--logit-bias must be ID=BIAS, such as 50256=-inf, got {pair!r}") from None
    return biases


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """What `serve` and `batch` have in common: how much is decoded."""

    max_sequences: int | None = option(
        None,
        metavar="N",
        help="Sequences decoded at a time; with --ray, in each process.",
        show_default=f"ensemble's, else {MAX_SEQUENCES}",
        min=1,
    )
    context: int | None = option(
        None, metavar="N", help="The most tokens of prompt and output together.", show_default="the members'", min=2
    )
