"""The former place of `hmode.method.network.MIN_SIDE`."""

from hmode.method.network import MIN_SIDE

__all__ = ["MIN_SIDE"]
