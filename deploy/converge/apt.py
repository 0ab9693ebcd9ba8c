"""The shell that installs packages: together, without starting anything, and with a way back where a roll does it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from deploy.model import resources as want

APT_LOCK_SECONDS = 120
"""How long another's hold on apt or dpkg (unattended-upgrades, say) is waited for."""

_OPTIONS = (
    "-q -y --no-install-recommends --allow-change-held-packages -o Dpkg::Use-Pty=0 "
    "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o APT::Update::Error-Mode=any"
)
APT = f"""\
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f -- $policy' EXIT
  printf '#!/bin/sh\\n# fleet: nothing starts before it is configured\\nexit 101\\n' >$policy
  chmod 755 $policy
fi
# Neither dpkg nor `apt-get update` waits for another's lock itself.
patience={APT_LOCK_SECONDS}
patiently() {{
  n=0
  until said=$("$@" 2>&1 9>&-); do
    case $said in *'lock was locked'* | *'get lock'*) ;; *) return 1 ;; esac
    [ $n -lt $patience ] || return 1
    n=$((n + 1)); sleep 1
  done
}}
failed() {{ printf '%s\\n' "$said" | tail -n 8; exit 1; }}
patiently dpkg --configure -a --force-confdef --force-confold || failed
# Lists may be old, or never fetched: fetch them once and try again.
install() {{
  patiently apt-get install {_OPTIONS} "$@" && return
  patiently apt-get update -q -o APT::Update::Error-Mode=any || failed
  patiently apt-get install {_OPTIONS} "$@" || failed
}}"""
"""`install WORDS`: by apt-get; no service starts by it. A half-done earlier run of dpkg is finished first; another's
lock is waited for."""


def _chosen(pairs: Iterable[str]) -> str:
    """Sets the arguments to NAME=VERSION of every installed package of these SOURCE=VERSION."""
    lines = ["set --"]
    for pair in pairs:
        source, _, version = pair.partition("=")
        lines.append(
            "for name in $(dpkg-query -W -f='${db:Status-Abbrev} ${source:Package} ${binary:Package}\\n' |\n"
            f"  awk -v source={shlex.quote(source)} '$1 ~ /^i/ && $2 == source {{ print $3 }}'); do\n"
            f'  set -- "$@" "$name"={shlex.quote(version)}\n'
            "done"
        )
    lines.append('[ $# -gt 0 ] || { echo "none of these packages is installed"; exit 1; }')
    return "\n".join(lines)


def fetch(pairs: Sequence[str], units: Sequence[str], *, again: bool) -> str:
    """Have the packages of SOURCE=VERSION ready, and keep those that are installed for each unit to go back to.

    For where the functions of `shell.PREAMBLE` are. again: this was done before the packages were touched; what was
    kept then stays.
    """
    names = " ".join(map(shlex.quote, units))
    return f"""\
{APT}
{_chosen(pairs)}
install --download-only --allow-downgrades "$@"
{"exit 0" if again else ""}
kept=$(mktemp -d)
trap 'rm -rf -- "$kept"; rm -f -- $policy' EXIT
for pair; do
  name=${{pair%%=*}}
  have=$(dpkg-query -W -f='${{Version}}' "$name")
  file=${{name%%:*}}_$(printf %s "$have" | sed 's/:/%3a/g')_$(dpkg-query -W -f='${{Architecture}}' "$name").deb
  if [ -f "/var/cache/apt/archives/$file" ]; then
    cp -- "/var/cache/apt/archives/$file" "$kept/"
  elif ! (cd "$kept" && apt-get -q download "$name=$have") >/dev/null 2>&1 9>&-; then
    echo "$name $have can no longer be had, so there would be no way back; put its .deb into /var/cache/apt/archives"
    exit 1
  fi
done
for unit in {names}; do
  outdated "$unit"
  folder={want.ROLLING}/$unit
  mkdir -p -m 700 "$folder"
  rm -rf -- "$folder/packages"
  cp -r -- "$kept" "$folder/packages"
  [ -e "$folder/since" ] || date +%s >"$folder/since"
done"""


def change(pairs: Sequence[str], stop: Sequence[str]) -> str:
    """Install the packages of SOURCE=VERSION, fetched before; `stop`: units that are stopped meanwhile."""
    lines = [f"systemctl stop -- {' '.join(map(shlex.quote, stop))} 9>&-"] if stop else []
    return "\n".join([*lines, APT, _chosen(pairs), 'install --no-download --allow-downgrades "$@"'])
