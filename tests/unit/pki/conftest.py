"""The real keys and the authority of the tests of trust."""

from tests.unit.trust.conftest import alice, authority, csr, keys, leaf_key, signer

__all__ = ["alice", "authority", "csr", "keys", "leaf_key", "signer"]
