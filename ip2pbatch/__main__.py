"""`python -m ip2pbatch`."""

from ip2pbatch.cli.app import main

main()
