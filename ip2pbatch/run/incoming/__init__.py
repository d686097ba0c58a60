"""What comes into a watched folder: seen in small parts, told by the system, whole at last. Never: how it is edited."""
