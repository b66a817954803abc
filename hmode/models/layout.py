"""The former place of `hmode.fast.layout`."""

import sys

from hmode.fast import layout

sys.modules[__name__] = layout
