"""What the machine gives: cores, memory, GPUs, and the limits of the container."""
