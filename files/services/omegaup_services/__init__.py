"""Reference backend services of an online judge, speaking the contract of the infrastructure
specification.
"""

__version__ = "0.1.0"
