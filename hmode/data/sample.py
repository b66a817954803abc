"""The former place of `hmode.method.image`."""

import sys

from hmode.method import image

sys.modules[__name__] = image
