"""A local server that behaves like the Unpod platform API, for tests: real sockets, synthetic data.

::

    from unpod_async.testing import Fault, Sandbox

    async with Sandbox(runs=20, tasks_per_run=5) as sandbox, sandbox.client() as unpod:
        sandbox.script(Fault(status=503, times=2))  # the next two requests fail
        ...
        assert len(sandbox.ledger) == 1  # the calls that were queued
        assert sandbox.requests == 3  # the requests that arrived

`unpod_async.testing.faults` has a function for each way in which such a service can fail.

The responses were compared, request by request, with recordings of the service's public server code. No call
is placed, nothing leaves the machine, and every name, number and credential is made up.
"""

from unpod_async.testing import faults
from unpod_async.testing.create import CreatedCall
from unpod_async.testing.live import ManualClock
from unpod_async.testing.sandbox import Sandbox
from unpod_async.testing.script import Fault, Oddities
from unpod_async.testing.server import Received

__all__ = ["CreatedCall", "Fault", "ManualClock", "Oddities", "Received", "Sandbox", "faults"]
