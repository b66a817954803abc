"""The former place of `hmode.fast.memory`."""

import sys

from hmode.fast import memory

sys.modules[__name__] = memory
