"""Start the old order service: `python -m services.order`.

CHECKOUT_MOVED=true, RETURN_MOVED=true: without the code of a domain that has moved; its paths
answer 410. What stays is orders.
"""

import os

from services.order.app import build, moved
from services.web import Settings, run

if __name__ == "__main__":
    run(build(Settings.from_environment("order"), moved(os.environ)))
