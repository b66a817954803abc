"""The former place of `hmode.fast.winograd`."""

import sys

from hmode.fast import winograd

sys.modules[__name__] = winograd
