"""A run's directory on the disk: layout, header, journals, plans, log. Never: how a picture is made."""
