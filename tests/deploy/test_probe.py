"""The probe: well, unwell, absent, or a host that does not serve."""

import http.server
import threading

import pytest

from deploy import probe
from hosts.processes import free_port


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({"/": 200, "/health": 503}[self.path])
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    """Gives the address of a server that compiles."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_compiles_lives_but_is_not_ready(url, capsys):
    assert probe.main([f"{url}/"]) == 0
    assert probe.main([f"{url}/health"]) == 1
    assert "503" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:{free_port()}/", "nonsense"], ids=["nobody", "nonsense"]
)
def test_no_answer_is_told_in_a_line(url, capsys):
    assert probe.main([url]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(url)


def test_only_process_0_of_a_slice_is_asked(monkeypatch):
    nobody = f"http://127.0.0.1:{free_port()}/"
    monkeypatch.setenv("TPU_WORKER_ID", "3")
    assert probe.main([nobody]) == 0
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert probe.main([nobody]) == 1
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "1")
    assert probe.main([nobody]) == 0
