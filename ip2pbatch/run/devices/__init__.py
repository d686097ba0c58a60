"""One run by several processes: dealing, the clerk, workers. Never: how a picture is made or what a model is."""
