"""Start the old order service: `python -m services.order`."""

from services.order.app import build
from services.web import Settings, run

if __name__ == "__main__":
    run(build(Settings.from_environment("order")))
