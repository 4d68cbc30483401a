"""What every command that decodes can be told: which ensemble and plan, and how tokens are drawn.

Each option is a field; `spread` turns the fields into a command's options. Defaults are those of the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from typer import Option

from ..core.combine import COMBINATIONS, Combination, Contrastive, Guided, make_combination
from ..core.params import SamplingParams
from ..core.verify import VERIFICATIONS
from ..ensemble import PLACEHOLDER, Ensemble
from ..errors import InvalidCombination, InvalidEnsemble, InvalidSampling, InvalidSchedule
from ..members import Member
from ..schedule import Plan, as_gamma, schedule_names

DEFAULT_ENSEMBLE = "demo:we"

# The option that sets each field of a combination.
_FLAGS = {"weights": "--weight", "mu": "--mu", "plausibility": "--plausibility", "scale": "--scale"}

_MODELS = "Models and their combination"
_PLAN = "How it is decoded"
_SAMPLING = "How tokens are drawn, and where a text ends"


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Members, combination and plan. What is None was not given: an ensemble file's own setting stands then."""

    ensemble: Annotated[
        str | None,
        Option(
            metavar="NAME|FILE",
            help="A bundled ensemble (see cospec models) or a YAML file with members, combination and plan.",
            show_default=f"{DEFAULT_ENSEMBLE}, where no --member is given",
            rich_help_panel=_MODELS,
        ),
    ] = None
    members: Annotated[
        list[str] | None,
        Option(
            "--member",
            metavar="MODEL",
            help="A model: a local folder, a hub id or a bundled model such as demo:math. Once for each member.",
            show_default=False,
            rich_help_panel=_MODELS,
        ),
    ] = None
    member_prompts: Annotated[
        list[str] | None,
        Option(
            "--member-prompt",
            metavar="TEXT",
            help=f"A member's own prompt, in which {PLACEHOLDER} stands for PROMPT. Once for each --member, in order.",
            show_default=False,
            rich_help_panel=_MODELS,
        ),
    ] = None
    combine: Annotated[
        str | None,
        Option(
            metavar="|".join(COMBINATIONS),
            help="How the members' distributions become the one that tokens are drawn from.",
            show_default="the ensemble's, else mixture",
            rich_help_panel=_MODELS,
        ),
    ] = None
    weights: Annotated[
        list[float] | None,
        Option(
            "--weight",
            metavar="W",
            help="A member's weight in a mixture, product or arithmetic combination. Once for each member, in order.",
            show_default="the ensemble's, else equal weights",
            rich_help_panel=_MODELS,
        ),
    ] = None
    mu: Annotated[
        float | None,
        Option(
            help="Contrastive: how much of the amateur is taken from the expert.",
            show_default=f"the ensemble's, else {Contrastive.mu}",
            rich_help_panel=_MODELS,
        ),
    ] = None
    plausibility: Annotated[
        float | None,
        Option(
            help="Contrastive: only tokens at least this likely to the expert, beside its likeliest, remain.",
            show_default="the ensemble's, else no such mask",
            rich_help_panel=_MODELS,
        ),
    ] = None
    scale: Annotated[
        float | None,
        Option(
            help="Guided: how far to go from the second member towards the first. 1 is the first alone.",
            show_default=f"the ensemble's, else {Guided.scale}",
            rich_help_panel=_MODELS,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        Option(
            help="The type that models compute in: float32, bfloat16, float16 or auto.",
            show_default="the ensemble's, else auto",
            rich_help_panel=_MODELS,
        ),
    ] = None
    device: Annotated[
        str | None,
        Option(
            help="Where models run: cpu, cuda, cuda:1, ...",
            show_default="cuda where there is one, else cpu",
            rich_help_panel=_MODELS,
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        Option("--trust-remote-code", help="Let code that a model ships with run.", rich_help_panel=_MODELS),
    ] = False
    schedule: Annotated[
        str | None,
        Option(
            metavar="|".join(schedule_names()),
            help="Who is fed next, and who proposes tokens. It changes the speed and never the distribution.",
            show_default=f"the ensemble's, else {Plan.schedule}",
            rich_help_panel=_PLAN,
        ),
    ] = None
    gamma: Annotated[
        list[str] | None,
        Option(
            metavar="N|auto",
            help="How many tokens a proposer drafts a turn: once, or once for each member; or auto, as many as are "
            "likely to pay.",
            show_default="the ensemble's, else the schedule's",
            rich_help_panel=_PLAN,
        ),
    ] = None
    proposer: Annotated[
        list[str] | None,
        Option(
            metavar="NAME|MODEL|lookup",
            help="Who drafts: a member's name, a model of the same tokenizer that only drafts, lookup (what followed "
            "the same tokens earlier in the text) or lookup+past (in finished texts too). Of several, auto picks, and "
            "mixture gives each member its own.",
            show_default="the ensemble's, else the first member",
            rich_help_panel=_PLAN,
        ),
    ] = None
    first: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="The member that starts afresh in alternate, and that the drafter drafts for in cascade.",
            show_default="the ensemble's, else the first member",
            rich_help_panel=_PLAN,
        ),
    ] = None
    verification: Annotated[
        str | None,
        Option(
            metavar="|".join(VERIFICATIONS),
            help="How drafts are checked. All keep the distribution; block accepts more, coupled texts depend on "
            "--seed alone.",
            show_default=f"the ensemble's, else {Plan.verification}",
            rich_help_panel=_PLAN,
        ),
    ] = None
    reproducible: Annotated[
        bool,
        Option(
            "--reproducible",
            help="The same as --verification coupled: the same seed gives the same text, whatever the schedule.",
            rich_help_panel=_PLAN,
        ),
    ] = False

    @property
    def name(self) -> str:
        """What the ensemble is called where nobody gives it a name."""
        return self.ensemble or "+".join(self.members or []) or DEFAULT_ENSEMBLE

    @property
    def target(self) -> list[Any]:
        """What texts are drawn from, as far as it was given."""
        return [self.name, self.member_prompts, self.combine, self._combination_options()]

    def build(self) -> Ensemble:
        """The ensemble, its models loaded. Raises a CospecError for whatever does not go together."""
        if self.ensemble is not None and self.members:
            raise InvalidEnsemble("--ensemble and --member exclude each other; give one of them")
        self._check_combination()
        if self.members:
            return Ensemble(self._members(self.members), self._combination(len(self.members)), **self._settings())
        if self.member_prompts:
            raise InvalidEnsemble("--member-prompt goes with --member; an ensemble file has its own `prompt:` entries")
        changes = {"type": self.combine} if self.combine else {}
        combine = {**changes, **self._combination_options()} or None
        return Ensemble.load(self.ensemble or DEFAULT_ENSEMBLE, combine=combine, **self._settings())

    def _members(self, models: list[str]) -> list[Member]:
        prompts: list[str] | list[None] = self.member_prompts or [None] * len(models)
        if len(prompts) != len(models):
            raise InvalidEnsemble(
                f"{len(prompts)} --member-prompt for {len(models)} --member; give one each, "
                f"{PLACEHOLDER!r} where PROMPT is to stand as it is"
            )
        return [Member(model=model, prompt=prompt) for model, prompt in zip(models, prompts, strict=True)]

    def _combination(self, num_members: int) -> Combination:
        return make_combination(self.combine or "mixture", num_members, **self._combination_options())

    def _combination_options(self) -> dict[str, Any]:
        given = {"weights": self.weights, "mu": self.mu, "plausibility": self.plausibility, "scale": self.scale}
        return {name: value for name, value in given.items() if value not in (None, [])}

    def _check_combination(self) -> None:
        """Raises InvalidCombination for an option that the combination does not have."""
        kind = self.combine or ("mixture" if self.members else None)
        if kind not in COMBINATIONS:
            return
        for name in self._combination_options():
            if name not in COMBINATIONS[kind].__dataclass_fields__:
                takers = [other for other, cls in COMBINATIONS.items() if name in cls.__dataclass_fields__]
                raise InvalidCombination(f"{_FLAGS[name]} has no meaning for {kind}; it goes with {', '.join(takers)}")

    def _settings(self) -> dict[str, Any]:
        """The plan and how models are loaded, as far as given."""
        settings = {
            "schedule": self.schedule,
            "gamma": as_gamma(self.gamma or []),
            "proposer": self._proposer(),
            "first": self.first,
            "verification": self._verification(),
            "dtype": self.dtype,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code or None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _proposer(self) -> str | list[str] | None:
        given = self.proposer or []
        return given[0] if len(given) == 1 else given or None

    def _verification(self) -> str | None:
        if not self.reproducible:
            return self.verification
        if self.verification not in (None, "coupled"):
            raise InvalidSchedule(
                f"--reproducible is --verification coupled, and --verification {self.verification} was given too; "
                "leave one out"
            )
        return "coupled"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """SamplingParams, an option a field."""

    max_tokens: Annotated[int, Option(help="The most tokens a text may have.", rich_help_panel=_SAMPLING)] = (
        SamplingParams.max_tokens
    )
    min_tokens: Annotated[int, Option(help="No text ends before so many tokens.", rich_help_panel=_SAMPLING)] = (
        SamplingParams.min_tokens
    )
    temperature: Annotated[
        float,
        Option(help="Above 1 is more varied, below 1 less; 0 is the likeliest token.", rich_help_panel=_SAMPLING),
    ] = SamplingParams.temperature
    top_p: Annotated[
        float,
        Option(
            help="Keep the likeliest tokens that together have this probability. 1: all.", rich_help_panel=_SAMPLING
        ),
    ] = SamplingParams.top_p
    top_k: Annotated[int, Option(help="Keep so many of the likeliest tokens. 0: all.", rich_help_panel=_SAMPLING)] = (
        SamplingParams.top_k
    )
    min_p: Annotated[
        float,
        Option(help="Keep tokens at least this likely, beside the likeliest. 0: all.", rich_help_panel=_SAMPLING),
    ] = SamplingParams.min_p
    repetition_penalty: Annotated[
        float,
        Option(help="Above 1, tokens of the prompt and the text become less likely.", rich_help_panel=_SAMPLING),
    ] = SamplingParams.repetition_penalty
    presence_penalty: Annotated[
        float, Option(help="Taken off the logit of each token that the text has.", rich_help_panel=_SAMPLING)
    ] = SamplingParams.presence_penalty
    frequency_penalty: Annotated[
        float, Option(help="The same, for each time that the text has it.", rich_help_panel=_SAMPLING)
    ] = SamplingParams.frequency_penalty
    logit_bias: Annotated[
        list[str] | None,
        Option(
            metavar="ID=BIAS",
            help="Added to a token's logit; -inf forbids it. Any number of times.",
            show_default=False,
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        Option(
            help="The same seed gives the same text.",
            show_default="drawn anew",
            rich_help_panel=_SAMPLING,
        ),
    ] = SamplingParams.seed
    stop: Annotated[
        list[str] | None,
        Option(
            metavar="TEXT",
            help="End before this text. Any number of times.",
            show_default=False,
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    stop_token_ids: Annotated[
        list[int] | None,
        Option(
            "--stop-token-id",
            metavar="ID",
            help="End with this token. Any number of times.",
            show_default=False,
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    ignore_eos: Annotated[
        bool, Option("--ignore-eos", help="Go on past the models' end token.", rich_help_panel=_SAMPLING)
    ] = SamplingParams.ignore_eos
    n: Annotated[int, Option("--n", help="How many texts for each prompt.", rich_help_panel=_SAMPLING)] = (
        SamplingParams.n
    )
    logprobs: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Report each token's log-probability and N alternatives (with --json).",
            show_default="none",
            rich_help_panel=_SAMPLING,
        ),
    ] = SamplingParams.logprobs

    def build(self) -> SamplingParams:
        """The parameters. Raises InvalidSampling, naming the one that is out of its range."""
        given: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return SamplingParams(**{**given, "logit_bias": _biases(self.logit_bias or [])})


def _biases(pairs: list[str]) -> Mapping[int, float]:
    """ID=BIAS pairs as a mapping."""
    biases = {}
    for pair in pairs:
        token, _, bias = pair.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise InvalidSampling(f"--logit-bias must be ID=BIAS, such as 50256=-inf, got {pair!r}") from None
    return biases
