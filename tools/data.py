"""torchreid-style face of ``embae data``: python tools/data.py check --root …"""

import sys

from embae_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
