"""The commands of `python -m glimpse.models`, one file each: its parser, and what it runs."""
