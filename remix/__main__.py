"""`python -m remix`: the command."""

from remix.cli.app import main

main()
