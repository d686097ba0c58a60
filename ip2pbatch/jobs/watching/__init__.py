"""`watch`: one shift over a folder, and who makes what it finds. Never: how a folder is looked at."""
