"""A load test: requests at a rate or from a number of callers, and figures of how they were answered.

It needs nothing that the client does not have anyway, so it is not an extra of the package.
"""
