"""A pilot's ledger -> its results."""

import hashlib
import json
from collections.abc import Iterator

from ..prompts import Chat, as_json
from .cost import cost
from .environment import environment
from .exactness import num_checks
from .formula import target_formula
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
    settings, ledger, ensemble = pilot.settings, pilot.ledger, pilot.ensemble
    speeds = speed(settings, ledger)
    evidence = Evidence(
        ours=settings.ours,
        speed=speeds,
        mechanism=mechanism(ledger, speeds, ensemble.drafter_names),
        kept=preserved(settings, ledger, num_checks(pilot.candidate)),
        gained=gained(settings, ledger),
        cost=cost(settings, ledger, speeds, ensemble, pilot.meter.source),
    )
    return Results(
        format=FORMAT,
        settings=_settings(pilot),
        environment=environment(ledger, ensemble),
        verdict=judge(settings.criteria, evidence, is_finished=not pilot.steps()),
        speed=evidence.speed,
        mechanism=evidence.mechanism,
        kept=evidence.kept,
        gained=evidence.gained,
        cost=evidence.cost,
        relaxed=relaxed(settings, ledger, ensemble),
        measurements=tuple(ledger.measurements),
    )


def _settings(pilot: Pilot) -> Settings:
    settings, ensemble = pilot.settings, pilot.ensemble
    return Settings(
        **settings.design(),
        ensemble=settings.source or " + ".join(ensemble.member_names),
        members=ensemble.member_names,
        drafters=ensemble.drafter_names,
        target=target_formula(ensemble.combination, ensemble.member_names),
        verification=ensemble.plan.verification,
        prompts=tuple(_prompt_infos(pilot)),
        methods=tuple(method.name for method in pilot.methods),
        score=", ".join(dict.fromkeys(question.score for question in settings.questions if question.is_scored)) or None,
        criteria_source=str(settings.criteria_source or "default"),
        prices_source=str(settings.prices_source or "default"),
    )


def _prompt_infos(pilot: Pilot) -> Iterator[PromptInfo]:
    ensemble = pilot.ensemble
    for question in pilot.settings.questions:
        prompt = question.prompt
        text = prompt if isinstance(prompt, str) else json.dumps(as_json(prompt), sort_keys=True)
        yield PromptInfo(
            id=question.id,
            digest=hashlib.sha256(text.encode()).hexdigest()[:DIGEST],
            category=question.category,
            num_tokens=len(ensemble.rendered(prompt)[0]),
            has_reference=question.is_scored,
            where=question.where,
            is_chat=isinstance(prompt, Chat),
        )
