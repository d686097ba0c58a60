"""Workers of a run as actors of Ray: what starts them and speaks to them. Never: dealing, books, pictures."""
