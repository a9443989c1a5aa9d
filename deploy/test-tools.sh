#!/bin/sh
# Makes sure the real programs that the tests use are here: installs them from Debian when it may, otherwise says what to do.
# What needs the tools below `required`, and with the word `boots` what real boots need, is skipped where they can't be
# installed, and says so.
set -eu

missing=""
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
has mosquitto || missing="$missing mosquitto"
has chromium || missing="$missing chromium"
has softhsm2-util || missing="$missing softhsm2"
has mkfs.ext4 || missing="$missing e2fsprogs"
has mkfs.vfat || missing="$missing dosfstools"
has mksquashfs || missing="$missing squashfs-tools"
has xdelta3 || missing="$missing xdelta3"
has sfdisk || missing="$missing fdisk"
has postgres || [ -x /usr/lib/postgresql/15/bin/postgres ] || missing="$missing postgresql-15"
has systemd-analyze || missing="$missing systemd"
has grub-editenv || missing="$missing grub-common"
has grub-emu || missing="$missing grub-emu"
has fw_setenv || missing="$missing libubootenv-tool"
has bootctl || missing="$missing systemd-boot"
has mcopy || missing="$missing mtools"
has strace || missing="$missing strace"
required=$missing
has mmdebstrap || missing="$missing mmdebstrap"
has mkfs.btrfs || missing="$missing btrfs-progs"
has grub-reboot || missing="$missing grub2-common"
if [ "${1:-}" = boots ]; then
    has qemu-system-x86_64 || missing="$missing qemu-system-x86"
    has qemu-system-aarch64 || missing="$missing qemu-system-arm"
    has depmod || missing="$missing kmod"
    has mkimage || missing="$missing u-boot-tools"
    [ -e /usr/share/OVMF/OVMF_CODE.fd ] || missing="$missing ovmf"
    [ -e /usr/lib/grub/x86_64-efi/normal.mod ] || missing="$missing grub-efi-amd64-bin"
    [ -e /usr/lib/systemd/boot/efi/systemd-bootx64.efi ] || missing="$missing systemd-boot-efi"
    [ -e /usr/lib/u-boot/qemu_arm64/u-boot.bin ] || missing="$missing u-boot-qemu"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing from Debian:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words is meant
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "The tests need:$missing" >&2
    echo "Install with:  sudo apt-get install --no-install-recommends$missing" >&2
    [ -z "$required" ] || exit 2
fi
