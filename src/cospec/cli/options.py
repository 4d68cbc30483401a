"""Options of every command that decodes: which ensemble and plan, how tokens are drawn, and how it is served.

Each option is declared once; `spread` gives them to the commands. Defaults are those of the library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from typer import Option

from ..core.combine import Contrastive, Guided, combination_names, combination_options, make_combination
from ..core.verify import VERIFICATIONS
from ..ensemble import Ensemble
from ..errors import InvalidCombination, InvalidEnsemble, InvalidSampling, InvalidSchedule
from ..members import Member
from ..prompts import PLACEHOLDER
from ..schedule import Plan, as_gamma, schedule_names
from ..server.settings import ServerSettings
from .spread import option

DEFAULT_ENSEMBLE = "demo:we"

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
        help="A model: a local folder, a hub id, a bundled model such as demo:math, or SCHEME:... of an installed "
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
        help=f"How the members' distributions become r, which tokens are drawn from: {', '.join(combination_names())}.",
        show_default="the ensemble's, else mixture",
    )
    weights: list[float] | None = _model_option(
        None,
        "--weight",
        metavar="W",
        help="A member's weight in a mixture, product or arithmetic combination. Once for each member, in order.",
        show_default="the ensemble's, else equal weights",
    )
    mu: float | None = _model_option(
        None,
        help="Contrastive: the factor of the amateur's logits, which are subtracted from the expert's.",
        show_default=f"the ensemble's, else {Contrastive.mu}",
    )
    plausibility: float | None = _model_option(
        None,
        help="Contrastive: mask tokens whose probability under the expert is below this share of its highest.",
        show_default="the ensemble's, else no such mask",
    )
    scale: float | None = _model_option(
        None,
        help="Guided: how far to go from the second member towards the first. 1 is the first alone.",
        show_default=f"the ensemble's, else {Guided.scale}",
    )
    dtype: str | None = _model_option(
        None,
        help="The type that models compute in: float32, bfloat16, float16 or auto.",
        show_default="the ensemble's, else auto",
    )
    device: str | None = _model_option(
        None,
        help="The device that models run on: cpu, cuda, cuda:1, ...",
        show_default="cuda where there is one, else cpu",
    )
    trust_remote_code: bool = _model_option(
        False, "--trust-remote-code", help="Allow code that a model ships with to run."
    )
    schedule: str | None = _plan_option(
        None,
        metavar="NAME",
        help="Which member is fed next, and who proposes tokens. It changes the speed and never the distribution: "
        f"{', '.join(schedule_names())}.",
        show_default=f"the ensemble's, else {Plan.schedule}",
    )
    gamma: list[str] | None = _plan_option(
        None,
        metavar="N|auto",
        help="How many tokens a proposer drafts a turn: once, or once for each member; or auto, as many as are "
        "likely to pay.",
        show_default="the ensemble's, else the schedule's",
    )
    proposer: list[str] | None = _plan_option(
        None,
        metavar="NAME|MODEL|lookup",
        help="Who drafts: a member's name, a model of the same tokenizer that only drafts, lookup (what followed "
        "the same tokens earlier in the sequence) or lookup+past (in finished sequences too). Of several, auto "
        "picks, and mixture gives each member its own.",
        show_default="the ensemble's, else the first member",
    )
    first: str | None = _plan_option(
        None,
        metavar="NAME",
        help="The member that is fed first where nothing is drafted (alternate), or that is drafted for (cascade).",
        show_default="the ensemble's, else the first member",
    )
    verification: str | None = _plan_option(
        None,
        metavar="NAME",
        help=f"How drafts are verified: {', '.join(VERIFICATIONS)}. All preserve the distribution; block accepts "
        "more, and coupled output depends on --seed alone.",
        show_default=f"the ensemble's, else {Plan.verification}",
    )
    reproducible: bool = _plan_option(
        False,
        "--reproducible",
        help="The same as --verification coupled: the same seed gives the same text, whatever the schedule.",
    )

    @property
    def name(self) -> str:
        """The name of the ensemble where it is not given one."""
        return self.ensemble or "+".join(self.members or []) or DEFAULT_ENSEMBLE

    @property
    def target(self) -> list[Any]:
        """The options that the target distribution depends on, as they were given."""
        return [self.name, self.member_prompts, self.combine, self._combination_options()]

    def build(self) -> Ensemble:
        """The ensemble, its models loaded. Raises a CospecError for options that do not go together."""
        if self.ensemble is not None and self.members:
            raise InvalidEnsemble("--ensemble and --member exclude each other; give one of them")
        self._check_combination()
        options = self._combination_options()
        if self.members:
            combination = make_combination(self.combine or "mixture", len(self.members), **options)
            return Ensemble(self._members(self.members), combination, **self._settings())
        if self.member_prompts:
            raise InvalidEnsemble("--member-prompt goes with --member; an ensemble file has its own `prompt:` entries")
        combine = {"type": self.combine} | options if self.combine else options or None
        return Ensemble.load(self.ensemble or DEFAULT_ENSEMBLE, combine=combine, **self._settings())

    def _members(self, models: list[str]) -> list[Member]:
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
        kind = self.combine or ("mixture" if self.members else None)
        if kind not in combination_names():
            return
        for name in self._combination_options():
            if name not in combination_options(kind):
                takers = [other for other in combination_names() if name in combination_options(other)]
                raise InvalidCombination(f"{_FLAGS[name]} has no meaning for {kind}; it goes with {', '.join(takers)}")

    def _settings(self) -> dict[str, Any]:
        """The plan and the load options, as far as given."""
        proposers = self.proposer or []
        settings = {
            "schedule": self.schedule,
            "gamma": as_gamma(self.gamma or []),
            "proposer": proposers[0] if len(proposers) == 1 else proposers or None,
            "first": self.first,
            "verification": self._verification(),
            "dtype": self.dtype,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code or None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _verification(self) -> str | None:
        if not self.reproducible:
            return self.verification
        if self.verification not in (None, "coupled"):
            raise InvalidSchedule(
                f"--reproducible is --verification coupled, and --verification {self.verification} was given too; "
                "leave one out"
            )
        return "coupled"


# The options for fields of SamplingParams, whose names, types and defaults they have.
SAMPLING = {
    "max_tokens": _sampling_option(min=1, help="The most tokens a sequence may have."),
    "min_tokens": _sampling_option(help="No sequence ends before so many tokens."),
    "temperature": _sampling_option(help="Above 1 is more varied, below 1 less; 0 is the most probable token."),
    "top_p": _sampling_option(help="Keep the most probable tokens that together have this probability. 1: all."),
    "top_k": _sampling_option(help="Keep so many of the most probable tokens. 0: all."),
    "min_p": _sampling_option(help="Keep tokens of at least this share of the highest probability. 0: all."),
    "repetition_penalty": _sampling_option(help="Above 1, tokens of the prompt and the output become less probable."),
    "presence_penalty": _sampling_option(help="Subtracted from the logit of each token that the output has."),
    "frequency_penalty": _sampling_option(help="The same, for each time that the output has it."),
    "seed": _sampling_option(help="The same seed gives the same text.", show_default="drawn anew"),
    "stop": _sampling_option(metavar="TEXT", help="End before this text. Any number of times.", show_default=False),
    "stop_token_ids": _sampling_option(
        "--stop-token-id", metavar="ID", help="End with this token. Any number of times.", show_default=False
    ),
    "ignore_eos": _sampling_option("--ignore-eos", help="Go on past the models' end token."),
    "n": _sampling_option(help="Samples for each prompt."),
    "logprobs": _sampling_option(
        metavar="N",
        help="Report each token's log-probability and N alternatives (with --json).",
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
    """What `serve` and `batch` have in common: the model's name, and how much it decodes."""

    model_name: str | None = option(
        None, metavar="NAME", help="The model's name in requests.", show_default="the ensemble's name"
    )
    max_sequences: int = option(
        ServerSettings.max_sequences, help="Sequences decoded at a time; with --ray, by each replica or worker.", min=1
    )
    context: int | None = option(
        None, help="The most tokens of prompt and output together.", show_default="the members' own", min=2
    )

    def settings(self, models: EnsembleOptions, **others: Any) -> ServerSettings:
        """The server's settings, with these others."""
        return ServerSettings(
            model=self.model_name or models.name, max_sequences=self.max_sequences, context=self.context, **others
        )
