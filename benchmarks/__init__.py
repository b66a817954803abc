"""How fast and how frugal hmode is: measured beside plain forms of the same computations.

`python -m benchmarks` from the project's root; docs/benchmarks.md says what is compared and how to
read it. Nothing in `hmode` imports this package.
"""

import os

# torch's profiler reports every start and stop, and that there is no GPU, unless told not to; it
# reads this once, when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
