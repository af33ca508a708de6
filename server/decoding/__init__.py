"""From a file's bytes to the network's input: limits first, then the header, then the pixels, then the pre-stem."""
