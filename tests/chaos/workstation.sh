# Boots this machine's own files as a workstation with systemd as PID 1 and cgroup v2 alone. Argument: an empty folder.
# In a mount namespace of its own: all that it mounts ends with it.
set -eu
folder=$1
mount -t tmpfs -o size=3g tmpfs "$folder"
mkdir -p "$folder/upper" "$folder/work" "$folder/root" "$folder/state" "$folder/cache"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
# Nothing of this machine's starts in it but systemd's own.
for unit in "$folder"/root/etc/systemd/system/*.wants/*; do rm -f "$unit"; done
cp -a "$2/." "$folder/cache/"
for root in unified systemd .; do
  group=/sys/fs/cgroup/$root/fleet-workstation
  [ -e "/sys/fs/cgroup/$root/cgroup.procs" ] || continue
  mkdir -p "$group"
  echo $$ >"$group/cgroup.procs"
done
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn --quiet --settings=no \
  --directory="$folder/root" --machine=fleet-workstation --hostname=workstation --boot --register=no --keep-unit \
  --private-network --private-users=no --capability=all --console=passive --resolv-conf=off --timezone=off \
  --system-call-filter="@mount @keyring @module @raw-io @privileged" --link-journal=no \
  --bind="$folder/state:/var/lib/fleet-lab" --bind="$folder/cache:/var/cache/fleet-lab"
