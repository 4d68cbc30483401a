"""`check_schedule`: a schedule keeps the law of r, makes progress, and changes nothing when it is asked."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..core.combine import Contrastive, Mixture, Product
from ..core.params import SamplingParams
from ..core.policy import Policy
from ..core.sheet import Sheet
from ..errors import CospecError, InvalidSchedule, UnknownName
from ..names import VERIFICATIONS
from ..schedule import Plan, Schedule, make_schedule, schedule_class
from ..schedule.plain import Plain
from .enumeration import engine_law
from .toys import ToyEnsemble, distance

# How far a law may be off by rounding.
ROUNDING = 1e-9
# A sequence of so many tokens that is not finished after so many rounds hangs.
MOST_ROUNDS_A_TOKEN = 50

_PROMPTS = ((1,), (0, 1, 1), (1, 0))
_GREEDY = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
_WARM = SamplingParams(max_tokens=3, temperature=0.7, top_k=2)
_ENSEMBLES = [
    ToyEnsemble(combination=Mixture([1.0]), num_members=1, num_drafters=1),
    ToyEnsemble(combination=Mixture([0.3, 0.7]), num_drafters=1),
    ToyEnsemble(combination=Mixture([0.3, 0.7]), num_drafters=2),
    ToyEnsemble(combination=Mixture([0.5, 0.5])),
    ToyEnsemble(combination=Mixture([0.2, 0.5, 0.3]), num_members=3),
    ToyEnsemble(combination=Product([0.4, 0.9]), num_drafters=1),
    ToyEnsemble(combination=Contrastive(0.4, plausibility=0.3), params=_WARM),
    ToyEnsemble(combination=Mixture([0.8, 0.2]), num_drafters=1, params=_GREEDY),
]


def check_schedule(schedule: str | Schedule | type[Schedule], plans: Sequence[Plan] | None = None) -> int:
    """Check a schedule, by name, class or object, on small ensembles of toy models.

    plans: how it is set; by default the plans that it gives `auto` and `cospec verify`. For each plan and each
    ensemble that it can be made for: the law of the text, enumerated over all random outcomes, is that of r, under each
    verification; in a batch a text is the same as alone; and no question changes the sheet or has two answers. Here a
    schedule is as it is before it has learned anything: its events are not reported. With its events, under coupled
    verification, its texts are those of `plain`.

    Returns how many laws were enumerated. Raises AssertionError, naming plan and ensemble, where something is wrong or
    the schedule fits none of the ensembles.
    """
    try:
        plan = Plan(schedule=schedule)
    except CospecError as error:
        raise AssertionError(str(error)) from error
    assert plan.name != Policy.name, f"{schedule!r} has no name; give the class a `name`"
    num_laws = 0
    coupled: list[tuple[Schedule, ToyEnsemble, str]] = []
    for ensemble in _ENSEMBLES:
        for plan in plans if plans is not None else _own_plans(schedule, ensemble):
            for made, verification in _made(plan, ensemble):
                where = (
                    f"{plan} under {verification} verification, {ensemble.combination.name} of {ensemble.num_members}"
                )
                _check_law(made, verification, ensemble, where)
                _check_batch(made, verification, ensemble, where)
                if verification == "coupled":
                    coupled.append((made, ensemble, where))
                num_laws += 1
    # Last: an object that was passed as the schedule has learned from here on.
    for each in coupled:
        _check_learning(*each)
    assert num_laws, f"the schedule {schedule!r} can be made for none of the ensembles that it is checked with"
    return num_laws


def _own_plans(schedule: str | Schedule | type[Schedule], ensemble: ToyEnsemble) -> list[Plan]:
    base = Plan(schedule=schedule)
    if isinstance(schedule, Schedule):
        return [base]
    kind = schedule_class(schedule) if isinstance(schedule, str) else schedule
    own = [*kind.candidates(ensemble.setting), *kind.verified(ensemble.setting)]
    return [*{replace(plan, schedule=schedule): None for plan in own}] or [base]


def _made(plan: Plan, ensemble: ToyEnsemble) -> Iterator[tuple[Schedule, str]]:
    """The plan's schedule under each verification that it can be had with."""
    for verification in VERIFICATIONS:
        try:
            yield make_schedule(replace(plan, verification=verification), ensemble.setting), verification
        except (InvalidSchedule, UnknownName):
            continue


def _check_law(schedule: Schedule, verification: str, ensemble: ToyEnsemble, where: str) -> None:
    engine = ensemble.engine()
    engine.add(ensemble.request(Asked(schedule), verification))
    off = distance(engine_law(engine), ensemble.law())
    assert off < ROUNDING, f"{where}: the text is not distributed as r, by {off:.3g} in total variation"


def _check_batch(schedule: Schedule, verification: str, ensemble: ToyEnsemble, where: str) -> None:
    """Sequences of unequal prompts and lengths, together and each alone."""
    everyone = range(len(_PROMPTS))
    together = _texts(Asked(schedule), verification, ensemble, everyone, where)
    alone = [_texts(Asked(schedule), verification, ensemble, [i], where)[0] for i in everyone]
    assert together == alone, f"{where}: a text in a batch is {together}, and alone {alone}"


def _check_learning(schedule: Schedule, ensemble: ToyEnsemble, where: str) -> None:
    """The same sequences twice, with events: what was learned of the first ones may change the speed alone."""
    everyone = range(len(_PROMPTS))
    expected = _texts(Plain(), "coupled", ensemble, everyone, where)
    for _ in range(2):
        texts = _texts(schedule, "coupled", ensemble, everyone, where)
        assert texts == expected, f"{where}: a text is {texts} while the schedule learns, and {expected} under plain"


def _texts(
    schedule: Policy, verification: str, ensemble: ToyEnsemble, which: Sequence[int], where: str
) -> list[tuple[int, ...]]:
    """The texts of these prompts, decoded in one batch."""
    engine = ensemble.engine()
    texts: dict[int, tuple[int, ...]] = {}
    ids = []
    for i in which:
        longer = replace(ensemble, params=replace(ensemble.params, max_tokens=4 + 3 * i))
        ids.append(engine.add(longer.request(schedule, verification, seed=i, prompt=_PROMPTS[i])))
    for _ in range(MOST_ROUNDS_A_TOKEN * 10 * len(which)):
        for event in engine.step():
            if event.result is not None:
                assert event.result.error is None, f"{where}: {event.result.error}"
                texts[event.id] = tuple(event.result.token_ids)
        if not engine.num_live:
            return [texts[id] for id in ids]
    raise AssertionError(f"{where}: texts are not finished after {MOST_ROUNDS_A_TOKEN} rounds a token")


class Asked(Policy):
    """A schedule's answers, each held to change nothing and to be the same when asked again. Events are not
    reported."""

    def __init__(self, schedule: Policy) -> None:
        self._schedule = schedule
        self.name = schedule.name

    def turn(self, sheet: Sheet) -> Sequence[int]:
        return self._ask("turn", sheet)  # type: ignore[return-value]

    def proposer(self, sheet: Sheet) -> int | None:
        return self._ask("proposer", sheet)  # type: ignore[return-value]

    def cells(self, sheet: Sheet, position: int) -> Sequence[int]:
        return self._ask("cells", sheet, position)  # type: ignore[return-value]

    def reach(self, sheet: Sheet, lane: int) -> int:
        return self._ask("reach", sheet, lane)  # type: ignore[return-value]

    def refiner(self, sheet: Sheet) -> int | None:
        return self._ask("refiner", sheet)  # type: ignore[return-value]

    def syncs_idle_members(self, sheet: Sheet) -> bool:
        return bool(self._ask("syncs_idle_members", sheet))

    def shadows(self, sheet: Sheet) -> Sequence[int]:
        return self._ask("shadows", sheet)  # type: ignore[return-value]

    def _ask(self, question: str, sheet: Sheet, *rest: int) -> object:
        before = _state(sheet)
        answer = getattr(self._schedule, question)(sheet, *rest)
        assert getattr(self._schedule, question)(sheet, *rest) == answer, (
            f"`{question}` gave two answers to one question"
        )
        assert _state(sheet) == before, f"`{question}` changed the sheet"
        return answer


def _state(sheet: Sheet) -> tuple[object, ...]:
    lanes = tuple((lane.length, lane.first) for lane in sheet.lanes)
    return sheet.num_changes, sheet.epoch, tuple(sheet.output), len(sheet.drafts), lanes, sheet.finish_reason
