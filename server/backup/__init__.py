"""Backups: everything a server can't get back from elsewhere in one archive, and a server made of one again."""
