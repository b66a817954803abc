"""The former place of `hmode.fast.unfolded`."""

import sys

from hmode.fast import unfolded

sys.modules[__name__] = unfolded
