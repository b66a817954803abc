"""The former place of `hmode.fast.batchnorm`."""

import sys

from hmode.fast import batchnorm

sys.modules[__name__] = batchnorm
