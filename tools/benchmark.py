"""torchreid-style face of ``embae benchmark``: python tools/benchmark.py --quick"""

import sys

from embae_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
