"""How fast and how frugal hmode is: measured beside plain forms of the same computations.

`python -m benchmarks` from the project's root; docs/benchmarks.md says what is compared and how to
read it. Nothing in `hmode` imports this package.
"""

import os

# torch's profiler reports on the error output its starts and stops, a missing GPU, and memory freed
# that it did not see allocated, unless told not to. Torch reads these once, when it is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
