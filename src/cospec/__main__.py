"""`python -m cospec`, and the console script: the command line."""

from .interrupts import leave_at_once


def main() -> None:
    leave_at_once()
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
