"""What `cospec bench` and `cospec pilot` share: running a study that Ctrl-C interrupts and the same command resumes."""

from pathlib import Path

from ..errors import CospecError, shown
from ..inputs import whole_number
from ..study.timing import Step, Study
from .output import Interrupt, progress


def run_study(study: Study, ledger_file: Path | None) -> bool:
    """Run all steps that are left; whether they were finished. Ctrl-C stops after the step that runs.

    ledger_file: the ledger is saved there after each step.
    """
    total = sum(step.weight for step in study.steps())
    with Interrupt() as interrupt, progress(total) as advance:

        def on_step(step: Step) -> None:
            if ledger_file is not None:
                study.ledger.save(ledger_file)
            advance(step.weight, step.phase)

        return study.run(on_step, interrupt.is_noted)


def parse_counts(text: str, example: str, error_type: type[CospecError]) -> list[int]:
    """The numbers of --concurrency. Raises `error_type` for anything but counts."""
    counts = [count for part in text.split(",") if (count := whole_number(part))]
    if len(counts) != len(text.split(",")):
        raise error_type(f"--concurrency must be counts such as {example}, got {shown(text)}")
    return counts
