"""Families: rows of plain data, and for each family one function that builds any of its rows from the blocks."""
