"""The doors: who may come in, how they show it, how often, and what is written down about it."""
