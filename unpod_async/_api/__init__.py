"""The public client: `UnpodClient` and its resources.

Modules: `client`, `directory` (organizations, spaces, agents), `runs` (also watching and waiting), `tasks`
(also creating calls) and `exporting`.
"""

from unpod_async._api.client import UnpodClient

__all__ = ["UnpodClient"]
