"""The former place of `hmode.method.network`."""

import sys

from hmode.method import network

sys.modules[__name__] = network
