"""The public client: `UnpodClient` and its resources.

Modules: `client`, `directory` (organizations, spaces, agents), `runs` (also watching and waiting), `tasks`
(also creating calls), `call_logs`, `exporting`, and `requests` (any other endpoint).
"""

from unpod_async._api.client import UnpodClient
from unpod_async._api.requests import RawResponse

__all__ = ["RawResponse", "UnpodClient"]
