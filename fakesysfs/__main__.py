"""`python -m fakesysfs`."""

import sys

from fakesysfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
