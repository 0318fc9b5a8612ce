"""Measurements of this machine, side by side in one process, with the bar that each should meet."""
