"""Models compared: which, by a run each; what joins their runs. Never: how one run is made."""
