"""Measures: ranking, tail accuracy, thresholds. Arrays in, numbers out."""
