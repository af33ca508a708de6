"""The command line: what each command does, its options, and how answers are shown and written."""
