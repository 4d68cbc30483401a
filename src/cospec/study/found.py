"""The ledger of a study -> its results."""

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version

import psutil
import torch

from .. import __version__
from ..core.combine import Arithmetic, Combination, Contrastive, Guided, Mixture, Product
from ..ensemble import Ensemble
from ..members import Member, written
from .cost import cost
from .ledger import Ledger
from .mechanism import mechanism
from .memory import device
from .quality import gained, kept
from .results import FORMAT, Environment, PromptInfo, Results, Settings
from .softened import relaxed
from .speeds import speed
from .study import Study
from .verdict import Evidence, judge

# Letters of a prompt's hash: enough to tell it from any other.
DIGEST = 16


def results(study: Study) -> Results:
    """Everything that its report shows, from what was measured so far."""
    asked, ledger, ensemble = study.asked, study.ledger, study.ensemble
    speeds = speed(asked, ledger)
    mechanisms = mechanism(ledger, speeds, ensemble.drafter_names)
    costs = cost(asked, ledger, speeds, ensemble, study.meter.source)
    evidence = Evidence(
        ours=asked.ours,
        speed=speeds,
        mechanism=mechanisms,
        kept=kept(asked, ledger),
        gained=gained(asked, ledger),
        cost=costs,
    )
    return Results(
        format=FORMAT,
        settings=_settings(study),
        environment=environment(ledger, ensemble),
        verdict=judge(asked.criteria, evidence),
        speed=speeds,
        mechanism=mechanisms,
        kept=evidence.kept,
        gained=evidence.gained,
        cost=costs,
        relaxed=relaxed(asked, ledger, ensemble),
        measurements=tuple(ledger.measurements),
    )


def _settings(study: Study) -> Settings:
    asked, ensemble = study.asked, study.ensemble
    return Settings(
        ensemble=asked.source or " + ".join(ensemble.member_names),
        members=ensemble.member_names,
        drafters=ensemble.drafter_names,
        target=target(ensemble.combination, ensemble.member_names),
        verification=ensemble.plan.verification,
        prompts_source=asked.prompts_source,
        prompts=tuple(
            PromptInfo(
                id=question.id,
                digest=hashlib.sha256(question.prompt.encode()).hexdigest()[:DIGEST],
                category=question.category,
                num_tokens=len(ensemble.tokenizer.encode(question.prompt)) if ensemble.tokenizer else 0,
                has_reference=question.is_scored,
                where=question.where,
            )
            for question in asked.questions
        ),
        tokens=asked.tokens,
        temperature=asked.temperature,
        repeats=asked.repeats,
        concurrencies=asked.concurrencies,
        methods=tuple(trial.name for trial in study.trials),
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


def environment(ledger: Ledger, ensemble: Ensemble) -> Environment:
    """This machine."""
    runners = dict(zip(ensemble.names, ensemble.runners, strict=True))
    return Environment(
        versions={
            "cospec": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        platform=platform.platform(),
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices={name: device(runner) for name, runner in runners.items()},
        dtypes={name: str(runner.dtype).removeprefix("torch.") for name, runner in runners.items()},
        accelerators=_accelerators(),
        memory=psutil.virtual_memory().total,
        started=ledger.started,
        seconds=ledger.seconds,
    )


def _processor() -> str:
    """The model's name, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()


def _accelerators() -> tuple[str, ...]:
    return tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count() if torch.cuda.is_available() else 0)))


def target(combination: Combination, members: tuple[str, ...]) -> str:
    """The combination as a formula over the members' names."""
    match combination:
        case Mixture():
            return " + ".join(_weighted(combination.weights, members))
        case Product():
            powers = zip(members, combination.weights, strict=True)
            return " · ".join(f"{name}^{weight:.3g}" for name, weight in powers)
        case Arithmetic():
            return f"softmax({' + '.join(_weighted(combination.weights, members))})"
        case Contrastive():
            mask = f", plausibility {combination.plausibility:g}" if combination.plausibility else ""
            return f"softmax({members[0]} − {combination.mu:g} {members[1]}){mask}"
        case Guided():
            return f"softmax({members[1]} + {combination.scale:g} ({members[0]} − {members[1]}))"
    return f"{combination.name}({', '.join(members)})"


def _weighted(weights: tuple[float, ...], members: tuple[str, ...]) -> list[str]:
    return [f"{weight:.3g} {name}" for weight, name in zip(weights, members, strict=True)]


def binding(ensemble: Ensemble) -> Mapping[str, object]:
    """What of machine and ensemble kept measurements must agree in."""
    return {
        "version": __version__,
        "members": [*ensemble.member_names],
        "drafters": [*ensemble.drafter_names],
        "sources": [_source(member) for member in ensemble.sources],
        "combination": [ensemble.combination.name, _written(vars(ensemble.combination))],
        "plan": str(ensemble.plan),
        "verification": ensemble.plan.verification,
        "processor": _processor(),
        "accelerators": [*_accelerators()],
        "threads": torch.get_num_threads(),
        "devices": [device(runner) for runner in ensemble.runners],
        "dtypes": [str(runner.dtype) for runner in ensemble.runners],
    }


def _source(member: Member) -> dict[str, str]:
    """Which model, under which prompt, and how it was loaded."""
    return {"model": written(member), "prompt": repr(member.prompt), **_written(vars(member.options))}


def _written(settings: Mapping[str, object]) -> dict[str, str]:
    # As Python writes them, a float has all of its digits.
    return {key: repr(value) for key, value in settings.items()}
