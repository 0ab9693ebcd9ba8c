"""The engine as pyinfra operations and deploys.

Every host gets the same short list of operations in the same order, whatever it is and whatever differs: pyinfra runs
an operation on all hosts before the next one begins, so phases are in step across the fleet. An operation yields
nothing where nothing differs.

The acting goes through one shell script on standard input per operation, not through pyinfra's stock operations:
those put content and secrets into world-readable temporary files and arguments, replace files without renaming and
without a checker, and ask each host for facts of their own (see docs/engine.md).
"""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import context, logger
from pyinfra.api import FunctionCommand, Host, State, deploy, operation
from pyinfra.api.command import PyinfraCommand

from deploy.converge.engine import Run, phases, run_of, still_different
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.resources import Phase


def _run() -> Run:
    run = run_of(context.state)
    if run is None:
        raise RuntimeError("no Run is attached to this pyinfra State")
    return run


@operation()
def converge(role: str, phase: int) -> Generator[PyinfraCommand, None, None]:
    """
    Make the resources of one role and phase on a host what they should be.

    + role: name of the service in the catalog; empty for the packages of all roles
    + phase: the Phase, as a number

    **Example:**

    .. code:: python

        converge(name="redis: files", role="redis", phase=Phase.FILES)
    """
    run, host = _run(), context.host
    steps = run.todo(host.name, role, Phase(phase))
    if not steps:
        host.noop(f"nothing differs in {role or 'packages'}")
        return
    yield FunctionCommand(_act, (role, phase), {})


def _act(state: State, host: Host, role: str, phase: int) -> bool:
    """Named parameters `state` and `host` make pyinfra take the returned False as a failure."""
    run = run_of(state)
    assert run is not None
    try:
        run.act(host.name, run.todo(host.name, role, Phase(phase)))
    except (FleetError, FleetErrors) as error:
        return _failed(run, host, error)
    return True


def _failed(run: Run, host: Host, error: FleetError | FleetErrors) -> bool:
    """Say it, and keep it for who asks the run what went wrong."""
    for one in each_of(error):
        host.log_styled(one.message(), fg="red", log_func=logger.error)
        if one not in run.failures:
            run.failures.append(one)
    return False


@operation()
def look_again() -> Generator[PyinfraCommand, None, None]:
    """Look at the hosts that were changed: whatever still differs is an error."""
    run, host = _run(), context.host
    if any(step.host == host.name for step in run.acted):
        yield FunctionCommand(_verify, (), {})


def _verify(state: State, host: Host) -> bool:
    run = run_of(state)
    assert run is not None
    try:
        left = run.remaining().get(host.name, [])
    except (FleetError, FleetErrors) as error:
        return _failed(run, host, error)
    return not left or _failed(run, host, FleetErrors(map(still_different, left)))


@deploy("omegaUp fleet")
def site() -> None:
    """All roles, on the host in context."""
    run, host = _run(), context.host
    for role, phase in host.loop(phases(service.name for service in run.fleet.services())):
        label = f"{role}: {phase.name.lower()}" if role else "packages"
        converge(name=label, role=role, phase=int(phase))
    look_again(name="look again")
