"""The command that serves a page, apart from those that end by themselves."""
