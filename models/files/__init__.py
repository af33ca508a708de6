"""Files that users and strangers name: read within bounds, written whole, and told apart by their digests."""
