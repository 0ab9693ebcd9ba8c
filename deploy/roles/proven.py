"""Values that a running server must be seen to have loaded: the exit code of a reload is no evidence of it.

nginx answers 0 to a reload whose new listener could not be bound; PHP-FPM and Prometheus reload after they answered.
So a step asks the same Query as the look does, until the answer is the wanted one.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping

from deploy.model.fleet import Context
from deploy.model.resources import Parameter, Query, StepClass


def built(ctx: Context, template: str, beside: str = "", **values: object) -> tuple[str, str]:
    """(build, text) of a configuration that names its own hash, and that of a text loaded beside it."""
    build = hashlib.sha256((ctx.render(template, build="", **values) + beside).encode()).hexdigest()[:16]
    return build, ctx.render(template, build=build, **values)


def reloaded(
    ctx: Context,
    query: Query,
    wanted: Mapping[str, str],
    files: tuple[str, ...],
    *,
    unit: str,
    seconds: int,
    words: str,
) -> Iterator[Parameter]:
    """Values that a server takes at its start and at a reload, and that none of `files` is younger than what runs.

    The query prints `files` as well (templates/proven/files.sh.j2). A reload begun a moment ago is waited for; then one
    is asked for, and has `seconds` to show effect. words: shell that prints the server's reason when it shows none.
    """
    quoted = " ".join(map(shlex.quote, files))
    for name, want in {**wanted, "files": "loaded"}.items():
        act = ctx.render(
            "proven/reloaded.sh.j2", ask=query.script, key=shlex.quote(name), want=shlex.quote(want), unit=unit,
            tries=seconds * 5, words=words, files=quoted,
        )  # fmt: skip
        yield Parameter(
            query=query, name=name, want=want, act=act, step=StepClass.RELOAD, rolling=False, at_start=True,
            loads=files[:1] if name == "build" else (),
        )  # fmt: skip
