"""Health metrics of this target: read now and then, summed up by hour, told in signed reports."""
