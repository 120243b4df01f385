"""`python -m splitctl`."""

from splitctl.main import main

main()
