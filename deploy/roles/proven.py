"""Values that a running server must be seen to have loaded: an exit code of a reload is no evidence of it.

nginx answers 0 to a reload whose new listener could not be bound; PHP-FPM and Prometheus reload after they answered.
So the step asks the same Query as the look until the answer is the wanted one.
"""

from __future__ import annotations

import shlex

from deploy.model.resources import Parameter, Query, StepClass

_TRIES_PER_SECOND = 5


def reloaded(
    query: Query,
    name: str,
    want: str,
    *,
    unit: str,
    seconds: int,
    words: str,
    loads: tuple[str, ...] = (),
    secret: bool = False,
    label: str = "",
) -> Parameter:
    """A value that the server takes at its start and at a reload.

    A reload begun a moment ago is waited for, one second; then one is asked for, and `seconds` given to show effect.
    words: shell that prints the server's reason when it shows none.
    """
    act = f"""\
ask() (
set -eu
{query.script}
)
well() {{ found=$(ask 2>&1 | awk -F'\\t' -v n={shlex.quote(name)} '$1 == n {{ print $2; exit }}'); [ "$found" = {shlex.quote(want)} ]; }}
within() {{ n=0; until well; do n=$((n + 1)); [ $n -lt $1 ] || return 1; sleep 0.{10 // _TRIES_PER_SECOND}; done; }}
if ! within {_TRIES_PER_SECOND}; then
  systemctl reload -- {unit} 9>&- || true
  if ! within {seconds * _TRIES_PER_SECOND}; then
    echo "{unit} was told to reload and goes on with {name}: ${{found:-no answer}}"
    {words}
    exit 1
  fi
fi"""
    return Parameter(
        query=query, name=name, want=want, act=act, step=StepClass.RELOAD, rolling=False, at_start=True, loads=loads,
        secret=secret, label=label,
    )  # fmt: skip


def older(began: str, paths: tuple[str, ...]) -> str:
    """Shell that prints `files<TAB>loaded`, or which of these files are younger than the shell variable `began`.

    It sees what a stamp cannot: a reload without systemd, a file put back after its bad twin was loaded.
    """
    return (
        f"older=''\nfor f in {' '.join(map(shlex.quote, paths))}; do\n"
        f'  [ "$(stat -L -c %Y -- "$f")" -le "${began}" ] || older="$older $f"\ndone\n'
        f"if [ -z \"$older\" ]; then printf 'files\\tloaded\\n'; else printf 'files\\tyounger than what runs:%s\\n' \"$older\"; fi"
    )


def dated(paths: tuple[str, ...]) -> str:
    """Shell that brings files from the future back: a clock that was set back would make them younger for ever."""
    return f"find {' '.join(map(shlex.quote, paths))} -maxdepth 0 -newermt now -exec touch -- {{}} +"
