"""The page to explore on: HTTP, events, files of the page. What it shows of a run, and has made, is of `jobs`."""
