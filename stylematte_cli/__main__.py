"""`python -m stylematte_cli` is `stylematte`."""

import sys

from stylematte_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
