"""The readable definitions, against which the fast ways are tested."""
