"""A pilot's ledger -> its results."""

import hashlib
from collections.abc import Iterator

from ..core.combine import Arithmetic, Combination, Contrastive, Guided, Mixture, Product
from .cost import cost
from .environment import environment
from .pilot import Pilot
from .quality import gained, preserved
from .relaxed import relaxed
from .results import FORMAT, PromptInfo, Results, Settings
from .speeds import mechanism, speed
from .verdict import Evidence, judge

# Digits of a prompt's hash that are kept: enough to tell prompts apart.
DIGEST = 16


def results(pilot: Pilot) -> Results:
    """Everything that the report shows, from what was measured so far."""
    asked, ledger, ensemble = pilot.asked, pilot.ledger, pilot.ensemble
    speeds = speed(asked, ledger)
    evidence = Evidence(
        ours=asked.ours,
        speed=speeds,
        mechanism=mechanism(ledger, speeds, ensemble.drafter_names),
        kept=preserved(asked, ledger),
        gained=gained(asked, ledger),
        cost=cost(asked, ledger, speeds, ensemble, pilot.meter.source),
    )
    return Results(
        format=FORMAT,
        settings=_settings(pilot),
        environment=environment(ledger, ensemble),
        verdict=judge(asked.criteria, evidence),
        speed=evidence.speed,
        mechanism=evidence.mechanism,
        kept=evidence.kept,
        gained=evidence.gained,
        cost=evidence.cost,
        relaxed=relaxed(asked, ledger, ensemble),
        measurements=tuple(ledger.measurements),
    )


def _settings(pilot: Pilot) -> Settings:
    asked, ensemble = pilot.asked, pilot.ensemble
    return Settings(
        ensemble=asked.source or " + ".join(ensemble.member_names),
        members=ensemble.member_names,
        drafters=ensemble.drafter_names,
        target=target_formula(ensemble.combination, ensemble.member_names),
        verification=ensemble.plan.verification,
        prompts_source=asked.prompts_source,
        prompts=tuple(_prompt_infos(pilot)),
        tokens=asked.tokens,
        temperature=asked.temperature,
        repeats=asked.repeats,
        concurrencies=asked.concurrencies,
        methods=tuple(method.name for method in pilot.methods),
        ours=asked.ours,
        score=", ".join(dict.fromkeys(question.score for question in asked.questions if question.is_scored)) or None,
        score_temperature=asked.score_temperature,
        score_tokens=asked.score_tokens,
        criteria=asked.criteria,
        criteria_source=str(asked.criteria_source or "default"),
        prices=asked.prices,
        prices_source=str(asked.prices_source or "default"),
        command=asked.command,
    )


def _prompt_infos(pilot: Pilot) -> Iterator[PromptInfo]:
    tokenizer = pilot.ensemble.tokenizer
    for question in pilot.asked.questions:
        yield PromptInfo(
            id=question.id,
            digest=hashlib.sha256(question.prompt.encode()).hexdigest()[:DIGEST],
            category=question.category,
            num_tokens=len(tokenizer.encode(question.prompt)) if tokenizer else 0,
            has_reference=question.is_scored,
            where=question.where,
        )


def target_formula(combination: Combination, members: tuple[str, ...]) -> str:
    """The combination as a formula over the members' names, such as `0.5 math + 0.5 general`."""
    match combination:
        case Mixture():
            return _weighted_sum(combination.weights, members)
        case Product():
            powers = zip(members, combination.weights, strict=True)
            return " · ".join(f"{name}^{weight:.3g}" for name, weight in powers)
        case Arithmetic():
            return f"softmax({_weighted_sum(combination.weights, members)})"
        case Contrastive():
            mask = f", plausibility {combination.plausibility:g}" if combination.plausibility else ""
            return f"softmax({members[0]} − {combination.mu:g} {members[1]}){mask}"
        case Guided():
            return f"softmax({members[1]} + {combination.scale:g} ({members[0]} − {members[1]}))"
    return f"{combination.name}({', '.join(members)})"


def _weighted_sum(weights: tuple[float, ...], members: tuple[str, ...]) -> str:
    return " + ".join(f"{weight:.3g} {name}" for weight, name in zip(weights, members, strict=True))
