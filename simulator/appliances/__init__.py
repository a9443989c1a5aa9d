"""Emulated network appliances: real SSH servers with files, images and boots of their own."""
