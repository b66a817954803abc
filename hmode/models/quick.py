"""The former place of `hmode.fast.quick`."""

import sys

from hmode.fast import quick

sys.modules[__name__] = quick
