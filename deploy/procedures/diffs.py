"""The text of what a plan would change: unified diffs, with secrets masked."""

from __future__ import annotations

import base64
import difflib
import shlex
from collections.abc import Iterable, Mapping

from deploy.converge import remote
from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.converge.together import together
from deploy.model.resources import File, StepClass


def diffs(run: Run, plan: Mapping[str, list[Step]]) -> dict[tuple[str, str], str]:
    """(host, key) -> unified diff, for each file whose content differs. One more question to the hosts concerned."""
    wanted = {name: [step for step in steps if _has_diff(step)] for name, steps in plan.items()}
    fetched = together((name for name, steps in wanted.items() if steps), lambda name: _fetch(run, name, wanted[name]))
    texts = {}
    for name, contents in fetched.items():
        for step in wanted[name]:
            file = step.resource
            assert isinstance(file, File)
            if file.secret:
                texts[name, step.key] = "(holds secrets: content not shown)"
                continue
            text = difflib.unified_diff(
                contents.get(file.path, "").splitlines(),
                [] if file.absent else file.content.splitlines(),
                f"{name}:{file.path}",
                "wanted",
                lineterm="",
                n=2,
            )
            texts[name, step.key] = run.masker("\n".join(text))
    return texts


def _has_diff(step: Step) -> bool:
    return (
        isinstance(step.resource, File)
        and step.step is StepClass.WRITE
        and ("content" in step.summary or step.resource.absent)
    )


def _fetch(run: Run, name: str, steps: Iterable[Step]) -> dict[str, str]:
    paths = [step.resource.path for step in steps if isinstance(step.resource, File) and not step.resource.secret]
    script = "\n".join(
        f"printf '%s ' {shlex.quote(path)}; head -c 200000 -- {shlex.quote(path)} | base64 -w 0; echo" for path in paths
    )
    reply = remote.run(run.hosts[name], script, seconds=60)
    contents = {}
    for line in reply.stdout:
        path, _, encoded = line.partition(" ")
        contents[path] = base64.b64decode(encoded).decode(errors="replace")
    return contents
