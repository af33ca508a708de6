"""A load generator: requests at a rate or from so many callers, and what became of them."""
