"""Timed runs, in one process, interleaved and paired prompt by prompt: `python -m cospec.bench`."""
