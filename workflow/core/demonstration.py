"""The team whose history is made up, so that a new installation has something to show: never part of a real figure."""

TEAM = "demo"
