"""`python -m medpeft_cli` is `medpeft`."""

from medpeft_cli.cli import main

main()
