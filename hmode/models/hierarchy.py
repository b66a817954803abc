"""The former place of `hmode.method.mixture.Level`."""

from hmode.method.mixture import Level

__all__ = ["Level"]
