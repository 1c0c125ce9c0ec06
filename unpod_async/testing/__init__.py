"""A stand-in for the Unpod platform API, for tests: a real server on a real socket, with synthetic data.

::

    from unpod_async.testing import Fault, Sandbox

    async with Sandbox(runs=20, tasks_per_run=5) as sandbox:
        sandbox.base_url, sandbox.token, sandbox.space_token  # what a client needs
        sandbox.script(Fault(status=503, times=2))  # the next two requests fail
        ...
        assert len(sandbox.ledger) == 1  # calls that were really queued
        assert sandbox.requests == 3  # requests that really arrived

`unpod_async.testing.faults` has the ways in which such a service fails, by name.

What it answers was compared, request by request, with recordings of the service's public server code. No
phone rings, nothing leaves the machine, and every name, number and credential in it is made up.
"""

from unpod_async.testing import faults
from unpod_async.testing.create import CreatedCall
from unpod_async.testing.sandbox import Sandbox
from unpod_async.testing.script import Fault, Oddities
from unpod_async.testing.server import Received

__all__ = ["CreatedCall", "Fault", "Oddities", "Received", "Sandbox", "faults"]
