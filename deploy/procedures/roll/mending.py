"""The first things after a roll that died: what it left in the middle is brought to where it can be gone on with."""

from __future__ import annotations

from deploy.converge.step import units_of
from deploy.errors import FleetError
from deploy.model.resources import Phase
from deploy.procedures import db
from deploy.procedures.roll.journal import Journal
from deploy.procedures.roll.steps import Say, Steps
from deploy.procedures.roll.taking import broken_off
from deploy.procedures.session import Session


def take_over(rolling: Steps) -> None:
    """Take the hosts from a controller that died, and bring what it left to where it can be gone on with.

    Raises:
        FleetError, FleetErrors: a host does not answer, or it cannot be told who leads.
    """
    rolling.lock(take_over=True)
    look(rolling.session, rolling.journal, rolling.say)
    mend(rolling.session, rolling.journal, rolling.say)


def look(session: Session, journal: Journal, say: Say) -> None:
    """The first look after a roll that died: where it died while it moved the database's writes, that is gone on with.

    Raises:
        FleetError, FleetErrors: it cannot be told who leads for another reason.
    """
    run = session.run
    try:
        run.look_all()
    except FleetError as error:
        found = broken_off(run)
        if found is None:
            raise
        journal.write("mend", why=error.message())
        say("(the writes of the database were being moved: that is gone on with first)")
        db.move(found, None)
        run.look_all()


def mend(session: Session, journal: Journal, say: Say) -> None:
    """Start what a dead roll left stopped, make followers follow, as apply does. No file: an abort brings those back.

    What cannot be mended so is left to the gates, which judge it.
    """
    run = session.run
    left = {
        # What shuts somebody out is for an apply, which does all that comes before it.
        name: [step for step in steps if not step.pending and units_of(step) and step.phase is not Phase.LAST]
        for name, steps in run.plan().items()
    }
    for name, steps in left.items():
        if steps:
            journal.write("mend", host=name, keys=[step.key for step in steps])
            say(f"({name}: what was left stopped or half done is mended first)")
            try:
                run.act(name, steps)
            except FleetError as error:
                journal.write("noticed", words=error.message())
    run.failures.clear()
    if any(left.values()):
        run.look_all()
