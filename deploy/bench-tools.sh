#!/bin/sh
# Makes sure the peers of the benchmarks are here: installs them from Debian when it may. A benchmark without its peers is skipped.
set -eu

missing=""
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
has rauc || missing="$missing rauc"
has swupdate || missing="$missing swupdate"
has dbus-daemon || missing="$missing dbus-daemon"
has openssl || missing="$missing openssl"
has mksquashfs || missing="$missing squashfs-tools"
has losetup || missing="$missing mount"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing from Debian:$missing"
    apt-get update -qq || true
    # shellcheck disable=SC2086  # a list of words is meant
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "Some benchmarks will be skipped. Install with:  sudo apt-get install --no-install-recommends$missing" >&2
