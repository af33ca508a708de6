"""The Glimpse server. `python -m glimpse.server --help` is the way in; ARCHITECTURE.md tells the way of a request."""
