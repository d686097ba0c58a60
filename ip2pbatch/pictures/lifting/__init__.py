"""The lift's parts: what becomes of what an edit adds, and what is done to planes."""
