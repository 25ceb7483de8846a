"""Evaluation. ``studio.py``: studio clips, scored by rule against exact truth."""
