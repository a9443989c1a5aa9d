# Example of a board's boot script; make boot.scr of it with: mkimage -T script -d boot.cmd boot.scr
# Adapt the lines that name devices and files. Slot A is partition 2, slot B partition 3; each holds /boot/Image and a device tree.

setenv otaria_if mmc
setenv otaria_dev 0
setenv otaria_part 1
load mmc 0:4 ${scriptaddr} otaria.scr && source ${scriptaddr}

if test "${otaria_run}" = A; then setenv otaria_root 2; fi
if test "${otaria_run}" = B; then setenv otaria_root 3; fi
setenv bootargs "root=/dev/mmcblk0p${otaria_root} ro rootwait panic=10 ${otaria_args}"
if load mmc 0:${otaria_root} ${kernel_addr_r} /boot/Image && load mmc 0:${otaria_root} ${fdt_addr_r} /boot/board.dtb; then
	booti ${kernel_addr_r} - ${fdt_addr_r}
fi

# We are here because the kernel did not load or did not start.
setenv otaria_event failed
load mmc 0:4 ${scriptaddr} otaria.scr && source ${scriptaddr}
sleep 5
reset
