"""`python -m manyhot`, for torchrun and the like."""

from manyhot.cli import main

main()
