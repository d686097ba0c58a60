"""What tells people and machines that a picture was edited by AI: Content Credentials (C2PA), signed and read."""
