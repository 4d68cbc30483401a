"""Timed runs, in one process, interleaved and paired prompt by prompt: what `cospec bench` does."""
