"""Face of ``embae ablate``: python tools/ablate.py --run log/…"""

import sys

from embae_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["ablate", *sys.argv[1:]]))
