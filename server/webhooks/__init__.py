"""Telling other systems what happens: events out of the trail, signed, and delivered until they are taken."""
