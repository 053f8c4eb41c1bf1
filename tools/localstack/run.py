"""LocalStack, until standard input ends: whoever started it is then gone, however it ended.

Arguments: a port of ::1, and a directory that goes with it."""

import os
import runpy
import shutil
import sys
import threading

port, home = sys.argv[1], sys.argv[2]


def end_with_the_starter():
    sys.stdin.buffer.read()
    shutil.rmtree(home, ignore_errors=True)
    os._exit(0)


threading.Thread(target=end_with_the_starter, daemon=True).start()
# An IPv4 address is ignored, and everything listened on.
os.environ.update(
    GATEWAY_LISTEN=f"[::1]:{port}",
    FILESYSTEM_ROOT=home,
    SERVICES="kms,sts",
    DNS_ADDRESS="0",
    EAGER_SERVICE_LOADING="0",
    DISABLE_EVENTS="1",
    SKIP_SSL_CERT_DOWNLOAD="1",
)
sys.argv = sys.argv[:1]
runpy.run_module("localstack.runtime.main", run_name="__main__")
