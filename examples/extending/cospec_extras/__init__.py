"""A schedule, a combination and a runner for cospec, which finds them by the entry points in pyproject.toml."""
