"""Hosts: the packages of a server's OS as a slot of their own, with a ladder that leads back.

`plan` and `ladder` are pure; `port` is what a package manager has to do, `apt` does it on Debian; `transaction` carries a patch
set through the ladder, and `boot` shows it to the core as a boot loader would be.
"""
