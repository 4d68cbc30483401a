"""`python -m cospec`: the command line."""

from .cli import main

main()
