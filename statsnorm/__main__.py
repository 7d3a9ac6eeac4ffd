"""`python -m statsnorm`."""

from statsnorm.cli import main

main(prog_name="statsnorm")
