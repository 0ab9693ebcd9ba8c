# Runs one host until it is switched off. Arguments: CGROUP... -- MOUNT-OPTIONS ROOT STATUS-FILE COMMAND...
# In a mount namespace of its own, so that the root's mount ends with it, however it ends.
set -u
groups=
while [ "$1" != "--" ]; do groups="$groups $1"; shift; done
shift
overlay="$1" root="$2" status="$3"
shift 3
for group in $groups; do echo $$ > "$group/launcher/cgroup.procs" || { echo "exited 71" > "$status"; exit 71; }; done
mount -t overlay overlay -o "$overlay" "$root" || { echo "exited 72" > "$status"; exit 72; }
while :; do
    # The container starts in a leaf of its own, and its systemd then rules there.
    ( for group in $groups; do
        find "$group/unit" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
        sh -c 'echo $PPID > "$1/cgroup.procs"' sh "$group/unit" || exit 71
      done
      exec "$@" )
    code=$?
    # 133: the host rebooted itself, and asks its supervisor to start it again.
    [ "$code" = 133 ] || break
    echo "[lab] reboot"
done
echo "exited $code" > "$status"
exit "$code"
