"""What each command does, without the terminal: also the Python API."""
