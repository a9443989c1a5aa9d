#!/bin/sh
# A host's root on btrfs as a rung of the way back. `snapshot` keeps the subvolume that is mounted as the root; `restore` lets the
# kept one be what the next boot mounts under that name (`rootflags=subvol=…`, as Debian's installer sets it up). Both bear to be
# run again. In agent.toml, below [target]:
#   snapshot = ["/usr/local/sbin/btrfs-snapshot.sh", "snapshot"]
#   restore = ["/usr/local/sbin/btrfs-snapshot.sh", "restore"]
# The agent's directory must be mounted of its own: taken back with the rest, it would say again, and otherwise, what the server has heard.
#   btrfs-snapshot.sh snapshot|restore [ROOT [AGENT-DIRECTORY]]
set -eu
what=$1 root=${2:-/} agent=${3:-/var/lib/otaria}
fail() { echo "$*" >&2; exit 1; }

case ${OTARIA_TRIAL:-} in '' | *[!A-Za-z0-9._-]*) fail "OTARIA_TRIAL names no trial" ;; esac
[ "$(findmnt -no TARGET -T "$agent")" != "$(findmnt -no TARGET -T "$root")" ] ||
    fail "$agent is part of what would be taken back; mount a file system or subvolume of its own there"
device=$(findmnt -no SOURCE "$root")
top=$(mktemp -d)
trap 'umount "$top" 2>/dev/null; rmdir "$top"' EXIT
mount -o subvolid=5 "${device%%\[*}" "$top"
kept=$top/otaria-before-$OTARIA_TRIAL broken=$top/otaria-after-$OTARIA_TRIAL

case $what in
snapshot)
    name=$(btrfs subvolume show "$root" | head -n 1)
    [ "$name" != / ] || fail "$root is the top of its file system, which no snapshot can replace; boot from a subvolume"
    echo "$name" > "$top/otaria-root"
    for old in "$top"/otaria-before-* "$top"/otaria-after-* "$top"/otaria-new; do
        [ ! -d "$old" ] || [ "$old" = "$kept" ] || btrfs -q subvolume delete "$old"
    done
    [ -d "$kept" ] || btrfs -q subvolume snapshot -r "$root" "$kept"
    ;;
restore)
    [ -d "$kept" ] || fail "there is no snapshot of trial $OTARIA_TRIAL"
    name=$(cat "$top/otaria-root")
    # What is mounted stays mounted whatever its name. A name is on the disk when btrfs writes both, at the end or sooner.
    if [ ! -d "$broken" ]; then
        [ ! -d "$top/otaria-new" ] || btrfs -q subvolume delete "$top/otaria-new"
        btrfs -q subvolume snapshot "$kept" "$top/otaria-new"
        mv -T "$top/$name" "$broken"
    fi
    [ -d "$top/$name" ] || mv -T "$top/otaria-new" "$top/$name"
    ;;
*) fail "usage: btrfs-snapshot.sh snapshot|restore [ROOT [AGENT-DIRECTORY]]" ;;
esac
btrfs filesystem sync "$top"
