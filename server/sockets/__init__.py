"""Sockets and ports as the kernel sees them: who is connected, what is dropped, and who holds a port."""
