"""Toy members where a user looks for them: `from cospec.toy import FunctionRunner`."""

from .runner.toy import FunctionRunner, TableRunner

__all__ = ["FunctionRunner", "TableRunner"]
