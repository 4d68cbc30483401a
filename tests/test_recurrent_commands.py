"""Members with a recurrent state as a user has them: folders, the command line, and awkward requests."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams
from cospec.cli import app
from cospec.core import prefill
from cospec.errors import UnsupportedModel
from cospec.runner.hf import HfRunner, LoadOptions, load

from .models import VOCAB, saved, tiny
from .test_recurrent import EXPERTS, KINDS

HYBRIDS = {"delta": "qwen3_5", "short": "lfm2", "expert": "lfm2_moe", "mamba": "falcon_h1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By name, a tiny model of each kind of state and one of attention, all of one vocabulary."""
    parent = tmp_path_factory.mktemp("hybrids")
    kinds = {**HYBRIDS, "attention": "llama"}
    return {
        name: str(saved(parent / name, kind, num_entries=VOCAB, seed=seed))
        for seed, (name, kind) in enumerate(kinds.items())
    }


def members_of(folders: dict[str, str], *names: str) -> list[str]:
    return [part for name in names for part in ("--member", folders[name])]


@pytest.mark.parametrize(
    ("names", "proposer"),
    [
        (("delta", "attention"), "short"),
        pytest.param(("attention", "expert"), "attention", marks=pytest.mark.long),
        pytest.param(("mamba", "delta"), "lookup", marks=pytest.mark.long),
    ],
)
def test_verify_passes_on_mixed_ensembles(
    names: Sequence[str], proposer: str, folders: dict[str, str], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps("w2 w3 w4") + "\n")
    drafter = ("--proposer", folders.get(proposer, proposer), "--schedule", "fixed", "--gamma", "3")
    size = ("--max-tokens", "6", "--samples", "20", "--prompts", str(prompts), "--dtype", "float32")
    found = CliRunner().invoke(app, ["verify", *members_of(folders, *names), *drafter, *size, "--json"])
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["exact"] is True
    assert {check["name"] for check in result["checks"]} == {"coupled text", "greedy text", "sampled text"}


@pytest.mark.parametrize("kind", [*KINDS, *EXPERTS[2:]])
def test_invariant_numerics_are_refused_by_name_with_the_reason(kind: str, tmp_path: Path) -> None:
    reason = "short convolutions" if kind.startswith("lfm") else "recurrent state"
    folder = saved(tmp_path, kind)
    # Before weights are read.
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UnsupportedModel, match=rf"{reason}.*\(numerics: invariant\).*leave numerics at default"):
        load(str(folder), LoadOptions(device="cpu", numerics="invariant"))


def test_a_mixed_ensemble_with_invariant_numerics_names_the_hybrid(folders: dict[str, str]) -> None:
    with pytest.raises(UnsupportedModel, match=r"delta.*keeps a recurrent state.*numerics: invariant"):
        Ensemble([folders["attention"], folders["delta"]], numerics="invariant", dtype="float32")


def test_a_hybrid_drafts_for_members_with_invariant_numerics(
    folders: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"numerics": "invariant", "dtype": "float32", "verification": "coupled", "keep_measurements": False}
    drafted = Ensemble([folders["attention"]], proposer=folders["delta"], schedule="fixed", gamma=3, **settings)
    assert "keeps a recurrent state" in caplog.text
    assert "It only drafts, and does so with default numerics" in caplog.text
    assert drafted.is_invariant
    params, prompts = SamplingParams(seed=2, max_tokens=20, ignore_eos=True), [[2, 3], [4] * 9]
    plain = Ensemble([folders["attention"]], schedule="plain", **settings)
    assert [each.token_ids for each in drafted.generate(prompts, params)] == [
        each.token_ids for each in plain.generate(prompts, params)
    ]


# Awkward requests. Coupled text of every plan is plain's.

# Of unequal length, one of them twice.
PROMPTS = [[2], [3, 4] * 40, [5, 6, 7], [3, 4] * 40, [3, 4] * 40 + [5]]
REQUESTS = {
    "one token": SamplingParams(seed=3, max_tokens=1),
    "the end at once": SamplingParams(seed=3, max_tokens=9, logit_bias={1: 100.0}),
    "the end now and then": SamplingParams(seed=3, max_tokens=30, logit_bias={1: 3.0}),
    "four samples": SamplingParams(seed=3, max_tokens=12, n=4, ignore_eos=True),
    "long": SamplingParams(seed=3, max_tokens=70, ignore_eos=True, temperature=0.3),
}
# Members, drafter, and the plan.
SETTINGS: dict[str, tuple[list[str], str | None, dict[str, object]]] = {
    "one model twice": (["delta", "delta"], None, {"schedule": "alternate", "gamma": 2}),
    "five members": (["delta", "attention", "short", "expert", "mamba"], None, {"schedule": "alternate", "gamma": 3}),
    "a hybrid drafts for attention": (["attention"], "mamba", {"schedule": "fixed", "gamma": 4}),
    "attention drafts for a hybrid": (["delta", "mamba"], "attention", {"schedule": "fixed", "gamma": 4}),
    "it drafts for itself": (["expert"], "expert", {"schedule": "fixed", "gamma": 12}),
    "more is taken back than is kept": (["delta", "short"], "mamba", {"schedule": "fixed", "gamma": 60}),
    "a lookup": (["mamba", "attention"], "lookup", {"schedule": "fixed", "gamma": 20}),
    "a cascade": (["delta", "expert"], "short", {"schedule": "cascade", "gamma": (2, 3)}),
    "auto": (["short", "attention"], "expert", {"schedule": "auto"}),
}


@pytest.fixture(scope="module")
def runners() -> dict[str, HfRunner]:
    kinds = {**HYBRIDS, "attention": "llama"}
    return {name: HfRunner(tiny(kind, seed=seed)) for seed, (name, kind) in enumerate(kinds.items())}


# What is awkward in the others is so in these; `make test-long` has all.
FIRST = ("one model twice", "a hybrid drafts for attention", "more is taken back than is kept", "a lookup")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.long) for name in SETTINGS]
)
def test_awkward_requests_have_the_text_of_plain(name: str, runners: dict[str, HfRunner]) -> None:
    names, proposer, plan = SETTINGS[name]
    members = [runners[each] for each in names]
    drafter = {} if proposer is None else {"proposer": runners.get(proposer, proposer)}
    settings = {"verification": "coupled", "keep_measurements": False}
    plain, drafted = Ensemble(members, schedule="plain", **settings), Ensemble(members, **plan, **drafter, **settings)
    is_long = len(names) > 2 or plan.get("gamma") == 60
    for request, params in REQUESTS.items():
        # Few of what takes long.
        prompts = PROMPTS[1:3] if is_long or request == "long" else PROMPTS
        expected, found = (
            [(each.token_ids, each.finish_reason) for each in ensemble.generate(prompts, params)]
            for ensemble in (plain, drafted)
        )
        assert found == expected


def test_long_prompts_in_chunks_beside_short_ones_have_the_text_of_each_alone(
    runners: dict[str, HfRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"verification": "coupled", "keep_measurements": False}
    ensemble = Ensemble(
        [runners["delta"], runners["expert"]], proposer=runners["mamba"], schedule="fixed", gamma=3, **settings
    )
    params = SamplingParams(seed=3, max_tokens=10, ignore_eos=True)
    alone = [ensemble.generate(prompt, params)[0].token_ids for prompt in PROMPTS]
    monkeypatch.setattr(prefill, "FEWEST", 9)
    monkeypatch.setattr(prefill, "MOST", 9)
    engine = ensemble.engine()
    ids = [engine.add(ensemble.request(prompt, params)) for prompt in PROMPTS]
    texts = {}
    while engine.num_live:
        texts |= {event.id: event.result.token_ids for event in engine.step() if event.result is not None}
    assert [texts[i] for i in ids] == alone
