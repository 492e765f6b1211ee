"""Data sources: each file turns one kind of folder or table into a Manifest."""
