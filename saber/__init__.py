"""SABER: multimodal emotion reasoning that states its evidence before its verdict."""

__version__ = "0.1.0"
