"""Start the new return service: `python -m services.returns`."""

from services.returns.app import build
from services.web import Settings, run

if __name__ == "__main__":
    run(build(Settings.from_environment("return")))
