"""An index over time: its history, updates, verification, and removal of what nobody needs."""
