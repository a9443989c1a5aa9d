# Chooses the slot to boot, counts the attempt before it is made, and says why the last trial ended. For U-Boot's hush shell.
#
# Where the state is:
#   with a redundant environment:  set nothing; the state is in it, and `saveenv` keeps it
#   otherwise, on a raw partition: otaria_if (mmc, virtio, …), otaria_dev, otaria_part; optionally otaria_addr, an address of
#                                  4 KiB that are free
# After:  otaria_run   A or B; empty when nothing may be booted
#         otaria_args  to be put on the kernel's command line
# When the kernel of otaria_run could not be loaded: setenv otaria_event failed, source this again, and reset.
#
# The rules are those of device_agent/boot/ledger.py. Blocks of the partition: 0 and 8 are the two copies, 16 and 24 the slots'
# marks of completeness; each is 1 KiB as `env export -c` makes it. The newest whole copy wins; both are written before a boot.

# A copy holds one variable, otaria_all: commands that set the others. U-Boot takes too few arguments to name them all.
setenv otaria_get 'setexpr otaria_blk ${otaria_start} + ${otaria_at}; ${otaria_if} dev ${otaria_dev}; ${otaria_if} read ${otaria_addr} ${otaria_blk} 2'
setenv otaria_put 'setexpr otaria_blk ${otaria_start} + ${otaria_at}; ${otaria_if} dev ${otaria_dev}; ${otaria_if} write ${otaria_addr} ${otaria_blk} 2'
setenv otaria_load 'setenv otaria_all; run otaria_get && env import -c ${otaria_addr} 400 && run otaria_all'
setenv otaria_pack 'setenv otaria_all "setenv otaria_first ${otaria_first}; setenv otaria_slot ${otaria_slot}; setenv otaria_a ${otaria_a}; setenv otaria_b ${otaria_b}; setenv otaria_left ${otaria_left}; setenv otaria_phase ${otaria_phase}; setenv otaria_tries ${otaria_tries}; setenv otaria_spare ${otaria_spare}; setenv otaria_clean ${otaria_clean}; setenv otaria_id ${otaria_id}; setenv otaria_cause ${otaria_cause}; setenv otaria_probe ${otaria_probe}; setenv otaria_seen ${otaria_seen}; setenv otaria_last ${otaria_last}"'
setenv otaria_other_not_whole 'if test "${otaria_slot}" = A; then setenv otaria_b 0; else setenv otaria_a 0; fi'
setenv otaria_end 'setenv otaria_phase ended; setenv otaria_tries 0; setenv otaria_clean 0; run otaria_other_not_whole'
setenv otaria_swap 'setenv otaria_slot ${otaria_other}; setenv otaria_phase ended; setenv otaria_cause boot-loop; setenv otaria_tries 0; run otaria_other_not_whole'
# The older copy first, so that the newest stays whole until the other one holds the count.
setenv otaria_save_state 'run otaria_pack; env export -c -s 400 ${otaria_addr} otaria_all && setenv otaria_at ${otaria_older} && run otaria_put && setenv otaria_at ${otaria_newer} && run otaria_put'
setenv otaria_save 'if test -n "${otaria_if}"; then run otaria_save_state; else saveenv; fi'
# Whether a number is one of 1 to 9; a higher one counts as none.
setenv otaria_is_count 'test "${otaria_n}" = 1 -o "${otaria_n}" = 2 -o "${otaria_n}" = 3 || test "${otaria_n}" = 4 -o "${otaria_n}" = 5 -o "${otaria_n}" = 6 || test "${otaria_n}" = 7 -o "${otaria_n}" = 8 -o "${otaria_n}" = 9'

if test "${otaria_event}" = failed; then
	setenv otaria_event
	if test -n "${otaria_newer}"; then
		if test "${otaria_run}" != "${otaria_slot}"; then
			run otaria_end
			setenv otaria_cause boot-failed
		else
			setenv otaria_left 0
		fi
		run otaria_save
	fi
	setenv otaria_run
else
	setenv otaria_run
	setenv otaria_newer
	setenv otaria_trouble
	if test -z "${otaria_addr}"; then setenv otaria_addr ${loadaddr}; fi
	if test -n "${otaria_if}"; then
		part start ${otaria_if} ${otaria_dev} ${otaria_part} otaria_start
		setenv otaria_at 0
		if run otaria_load; then
			setenv otaria_newer 0
			setenv otaria_older 8
			setenv otaria_number ${otaria_first}
		fi
		setenv otaria_at 8
		if run otaria_load; then
			if test -z "${otaria_newer}"; then
				setenv otaria_newer 8
			elif test ${otaria_first} -gt ${otaria_number}; then
				setenv otaria_newer 8
			fi
			if test "${otaria_newer}" = 8; then setenv otaria_older 0; fi
		fi
		if test "${otaria_newer}" = 0; then
			setenv otaria_at 0
			run otaria_load
		fi
	elif test "${otaria_slot}" = A -o "${otaria_slot}" = B; then
		setenv otaria_newer env
	fi

	if test -n "${otaria_newer}"; then
		if test "${otaria_slot}" = A; then
			setenv otaria_other B
			setenv otaria_whole ${otaria_b}
		else
			setenv otaria_other A
			setenv otaria_whole ${otaria_a}
		fi
		# After a clean shutdown an attempt is free, at most three times.
		setenv otaria_free 0
		if test "${otaria_clean}" = 1; then
			if test "${otaria_spare}" = 1 -o "${otaria_spare}" = 2 -o "${otaria_spare}" = 3; then
				setexpr otaria_spare ${otaria_spare} - 1
				setenv otaria_free 1
			fi
		fi
		setenv otaria_clean 0
		setenv otaria_seen ${otaria_probe}
		setenv otaria_run ${otaria_slot}
		if test "${otaria_phase}" = trial; then
			setenv otaria_n ${otaria_tries}
			if test "${otaria_whole}" != 1; then
				run otaria_end
				setenv otaria_cause attempts-exhausted
			elif test "${otaria_free}" = 1; then
				setenv otaria_run ${otaria_other}
			elif run otaria_is_count; then
				setexpr otaria_tries ${otaria_tries} - 1
				setenv otaria_run ${otaria_other}
			else
				run otaria_end
				setenv otaria_cause attempts-exhausted
			fi
		elif test "${otaria_free}" != 1; then
			setenv otaria_n ${otaria_left}
			if run otaria_is_count; then
				setexpr otaria_left ${otaria_left} - 1
			elif test "${otaria_whole}" = 1; then
				run otaria_swap
				setenv otaria_run ${otaria_slot}
			fi
		fi
		if run otaria_save; then
			true
		else
			# An attempt that is not counted durably is not made.
			setenv otaria_trouble storage-fault
			setenv otaria_run ${otaria_slot}
		fi
	elif test -n "${otaria_if}"; then
		# Both copies are lost: a slot that is marked as complete, or none.
		setenv otaria_trouble loader-state-lost
		setenv otaria_seen
		setenv otaria_complete
		setenv otaria_at 10
		run otaria_load
		if test "${otaria_complete}" = 1; then
			setenv otaria_run A
		else
			setenv otaria_complete
			setenv otaria_at 18
			run otaria_load
			if test "${otaria_complete}" = 1; then setenv otaria_run B; fi
		fi
	fi
	setenv otaria_args "otaria.slot=${otaria_run} otaria.canary=${otaria_seen} otaria.cause=${otaria_trouble}"
fi
