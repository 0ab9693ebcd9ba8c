"""What all commands have in common: where they print, their usual arguments, and how they refuse."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy import view
from deploy.errors import TRACE_VARIABLE, FleetError, FleetErrors, each_of, unforeseen

# Where nobody's terminal sets the width, lines are for a log: wide.
out = Console(emoji=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, emoji=False, width=None if sys.stderr.isatty() else 200)

Inventory = Annotated[str, typer.Argument(metavar="INVENTORY", help="Name or folder of the inventory.")]
Limit = Annotated[str | None, typer.Option("--limit", "-l", help="Only these hosts or groups, comma-separated.")]
Identity = Annotated[
    Path | None,
    typer.Option("--identity", "-i", help="Private SSH key that opens the secrets.", dir_okay=False),
]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON document on standard output.")]


@contextmanager
def reported(as_json: bool = False) -> Iterator[None]:
    """Every refusal as one clear message (or JSON) and exit code 1; never a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if isinstance(error, FleetError | FleetErrors):
            errors = each_of(error)
        elif os.environ.get(TRACE_VARIABLE):
            raise
        else:
            errors = (unforeseen(error),)
        if as_json:
            print(json.dumps({"errors": [item.to_dict() for item in errors]}, indent=2))
        else:
            view.show_errors(err, errors)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted: what was begun on the hosts ends there; run apply again to finish", highlight=False)
        raise typer.Exit(130) from None
