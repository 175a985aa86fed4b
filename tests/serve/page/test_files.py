"""The page's files over HTTP, without a browser."""

import gzip
import hashlib
import re
from pathlib import Path

import httpx
import pytest

import vendor_ui
from r1jax.serve import page as served

FOLDER = Path(served.__file__).parent / "ui"


@pytest.fixture(scope="module")
def client(door):
    """A client of the real application, which asks for no key."""
    return door.client


@pytest.fixture
def digest(client):
    return re.search(r'ui/([0-9a-f]{16})/main.js"', client.get("/").text)[1]


def test_the_page_forbids_all_but_its_own_scripts_and_styles(client):
    policy = client.get("/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["img-src"] == "'self' data:"
    assert "unsafe" not in policy


def test_nothing_in_the_page_is_inline_or_from_elsewhere():
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", html)
    links = re.findall(r'(?:src|href)="([^"#]+)"', html)
    assert len(links) > 10
    assert all(link.startswith("ui/DIGEST/") for link in links)


def test_every_module_that_is_imported_at_once_is_fetched_at_once():
    html = (FOLDER / "index.html").read_text()
    loaded = set(re.findall(r'href="ui/DIGEST/([\w./-]+\.js)"', html)) | {"main.js"}
    imports = re.compile(r'^(?:import|\} from)[^"\n]*"\./([^"]+)"', re.MULTILINE)
    imported = {"main.js"}
    for path in FOLDER.glob("*.js"):
        imported |= set(imports.findall(path.read_text()))
    assert loaded == imported


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/katex-0.19.1/fonts/KaTeX_Main-Regular.woff2", "font/woff2"),
        ("vendor/marked-18.2.1/LICENSE", "text/plain; charset=utf-8"),
    ],
)
def test_files_come_with_their_types_and_are_kept(client, digest, path, content_type):
    response = client.get(f"/ui/{digest}/{path}")
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.content == (FOLDER / path).read_bytes()


def test_a_page_of_another_release_gets_files_it_must_not_keep(client):
    response = client.get("/ui/0123456789abcdef/main.js")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"


def test_text_is_packed_for_whoever_takes_it(client, digest):
    path = f"/ui/{digest}/main.js"
    packed = client.get(path, headers={"accept-encoding": "br, GZIP;q=0.5"})
    plain = client.get(path, headers={"accept-encoding": "gzip;q=0, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content  # the client has unpacked
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.headers["vary"] == "accept-encoding"
    assert packed.headers["etag"] != plain.headers["etag"]


def test_fonts_are_packed_already():
    name = "vendor/katex-0.19.1/fonts/KaTeX_Main-Regular.woff2"
    body = (FOLDER / name).read_bytes()
    assert served.File(body, "font/woff2").packed is None
    assert gzip.decompress(served.File(b"a" * 1000, "text/plain").packed) == b"a" * 1000


def test_what_the_browser_has_is_not_sent_again(client):
    first = client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    again = client.get("/", headers={"if-none-match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/page.py",
        "....//page.py",
        "/etc/passwd",
        "vendor/../../page.py",
        "vendor",
        "",
        "index.html",
    ],
)
def test_no_path_leads_anywhere_else(door, digest, path):
    url = f"{door.url}/ui/{digest}/"
    with httpx.Client() as client:
        request = client.build_request("GET", url)
        # httpx would tidy the path up; a hostile client does not.
        raw = request.url.raw_path + path.encode()
        request.url = request.url.copy_with(raw_path=raw)
        response = client.send(request)
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_the_page_is_open_where_the_api_asks_for_a_key(serve, llm):
    with serve(llm, api_keys=["secret"]) as site:
        html = site.client.get("/")
        main = re.search(r"ui/[0-9a-f]{16}/main.js", html.text)[0]
        assert site.client.get(f"/{main}").status_code == 200
        for path in ("/v1/models", "/metrics", "/ui", "/uix", "//", "/ui/../v1/models"):
            status = site.client.get(f"{site.url}{path}").status_code
            assert status in (401, 404), path
        assert site.client.get("/v1/models").status_code == 401
        assert site.client.post("/").status_code == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_ways_of_asking_say_the_same(client, method):
    response = client.request(method, "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert (response.content == b"") == (method == "HEAD")


def test_the_models_card_tells_whether_it_reasons(site, plain_site):
    for place, reasons in ((site, True), (plain_site, False)):
        assert place.client.get("/v1/models").json()["data"][0]["reasoning"] is reasons


def test_the_libraries_are_those_that_were_released():
    found = vendor_ui.digests(vendor_ui.VENDOR)
    assert vendor_ui.differences(found, vendor_ui.read_sums()) == []
    assert {path.split("/")[0] for path in found} == {
        f"{name.removeprefix('@').replace('/', '-')}-{version}"
        for name, version in vendor_ui.PACKAGES
    }
    assert all(
        f"{folder}/LICENSE" in found for folder in {p.split("/")[0] for p in found}
    )


def test_a_library_that_differs_is_told():
    listed = {"a": "1", "b": "2", "c": "3"}
    assert vendor_ui.differences({"a": "1", "b": "x", "d": "4"}, listed) == [
        "d is not in SHA256SUMS",
        "c is missing",
        "b has another SHA-256",
    ]


def test_the_whole_page_is_light():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    own = [path for path in files if "vendor" not in path.parts]
    assert all(len(path.read_text().splitlines()) < 350 for path in own)


def test_the_digest_changes_with_any_file():
    one, other = served.File(b"one", "text/css"), served.File(b"two", "text/css")
    assert one.digest == hashlib.sha256(b"one").hexdigest()[:16] != other.digest
