"""The benchmark: equal work for every contender, compared before it is timed, timed in mirrored order."""
