"""python -m hmode."""

from hmode.cli import main

main()
