"""Inference: scores for a Manifest or for image files."""
