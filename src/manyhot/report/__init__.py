"""The report: plots and one self-contained page."""
