"""What people think of a run's cells: beside the run, and nothing that a picture hangs on."""
