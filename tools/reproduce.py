"""Face of ``embae reproduce``: python tools/reproduce.py --table all --root …"""

import sys

from embae_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
