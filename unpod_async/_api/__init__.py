"""What users call: the client and its groups of calls."""

from unpod_async._api.client import UnpodClient

__all__ = ["UnpodClient"]
