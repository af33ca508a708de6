"""One file a family: its rows of plain data and the one function that builds them."""
