"""What every process of a server needs: to start, to be told to stop, and to leave nothing behind."""
