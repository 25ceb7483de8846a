"""The studio: rendered clips of one person speaking, with exact truth. See ``world.py`` for what can be set."""

from saber.studio.reader import follows, read

__all__ = ["follows", "read"]
