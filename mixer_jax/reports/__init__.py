"""Reports: HTML pages, contact sheets and plots."""

import logging

# Without a home directory, Matplotlib warns about folders it cannot write.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
