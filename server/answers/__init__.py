"""From the outputs of a network to an answer: classes, labels, whether anything is known, why, and drift."""
