"""`python -m srptq_plugin` is `srptq`."""

import sys

from srptq_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
