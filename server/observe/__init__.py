"""What the server reads from a monitoring system."""
