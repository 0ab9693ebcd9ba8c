"""Reference backend services of an online judge, speaking the contract of the infrastructure specification."""

import os

__version__ = "0.1.0"

# Read by prometheus_client when it is first imported (Debian 12's has no function for it): without it a `_created`
# series, which tells nothing, stands beside every counter.
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
