"""Training where an image may show several labels, or none: from a CSV of labels to a multi-label bundle."""
