#!/bin/sh
# Lets GRUB start the kernel that ran before, once: the boot after that is the usual one again. In agent.toml, below [target]:
#   previous_kernel = ["/usr/local/sbin/previous-kernel.sh"]
# Its entry is found by the kernel's file, in the grub.cfg that grub-mkconfig wrote.
#   previous-kernel.sh [BOOT-DIRECTORY]
set -eu
boot=${1:-/boot}
[ -n "${OTARIA_KERNEL:-}" ] || { echo "OTARIA_KERNEL names no kernel" >&2; exit 1; }
entry=$(awk -v wanted="vmlinuz-$OTARIA_KERNEL" '
    function id(line) { sub(/.*\$menuentry_id_option \047/, "", line); sub(/\047.*/, "", line); return line }
    /^submenu / { menu = id($0) ">" }
    /^}/ { menu = "" }
    /^[ \t]*menuentry / { entry = menu id($0) }
    $1 ~ /^linux(16|efi)?$/ { parts = split($2, part, "/"); if (part[parts] == wanted) { print entry; exit } }
' "$boot/grub/grub.cfg")
[ -n "$entry" ] || { echo "$boot/grub/grub.cfg has no entry that starts kernel $OTARIA_KERNEL" >&2; exit 1; }
exec grub-reboot --boot-directory="$boot" "$entry"
