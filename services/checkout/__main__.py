"""Start the new checkout service: `python -m services.checkout`."""

from services.checkout.app import build
from services.web import Settings, run

if __name__ == "__main__":
    run(build(Settings.from_environment("checkout")))
