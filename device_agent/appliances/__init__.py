"""A site agent's side of network appliances: drivers over SSH, and the course of one box from image to image."""
