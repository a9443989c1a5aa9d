#!/bin/busybox sh
# The first program of a guest: mounts the slot that the boot loader names, read-only, and hands over to its init.
# Whatever goes wrong here ends it, which the kernel answers with a panic, and panic= with a restart.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module" || exit 1; done </modules/order

label=
for word in $(cat /proc/cmdline); do
	case $word in
	root=PARTLABEL=*) label=${word#root=PARTLABEL=} ;;
	otaria.slot=*) echo "otaria-boots:${word#otaria.slot=}:" ;;
	esac
done
found=
tries=0
while [ -z "$found" ] && [ $tries -lt 100 ]; do
	for about in /sys/class/block/*/uevent; do
		if grep -qx "PARTNAME=$label" "$about"; then
			found=/dev/$(sed -n 's/^DEVNAME=//p' "$about")
		fi
	done
	[ -n "$found" ] || sleep 0.1
	tries=$((tries + 1))
done
mount -t squashfs -o ro "$found" /root || exit 1
umount /sys /proc
mount --move /dev /root/dev
exec switch_root /root /sbin/init
