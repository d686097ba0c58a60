"""Plans of millions of Edits: what is held of them, and what is made again when it is asked for."""
