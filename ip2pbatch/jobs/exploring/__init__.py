"""What the studio does to a run: pictures that are asked for one after another, by several people, and watched."""
