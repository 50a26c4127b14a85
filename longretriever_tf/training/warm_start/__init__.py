"""Updates: a run that goes on from an earlier one, on the same log with new days."""
