"""moto behind HTTP, with the repairs that the local runtime makes to it.

python moto_server.py PORT
"""

from __future__ import annotations

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from saga_cli.local.moto_as_aws import moto_repaired


def main(port: int) -> None:
    """Serve until the process is ended."""
    app = DomainDispatcherApplication(create_backend_app)
    with moto_repaired():
        make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
