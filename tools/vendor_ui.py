"""Fetches the libraries of the chat page, as npm has them, and checks what came.

    python tools/vendor_ui.py

Every file lies in r1jax/serve/ui/vendor/NAME-VERSION/ exactly as it was released,
beside its licence, and has its SHA-256 in SHA256SUMS there. Files that do not match are
not written. To take another version, change it in PACKAGES (and in the page)
and write the new sums with `--update`. Needs npm.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "r1jax" / "serve" / "ui" / "vendor"
SUMS = VENDOR / "SHA256SUMS"

# npm name, version: where the wanted files lie in the package, and where they go.
PACKAGES: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("marked", "18.2.1"): {"lib/marked.esm.js": "", "LICENSE": ""},
    ("dompurify", "3.4.18"): {"dist/purify.min.js": "", "LICENSE": ""},
    ("katex", "0.19.1"): {
        "dist/katex.min.js": "",
        "dist/katex.min.css": "",
        "dist/fonts/*.woff2": "fonts",
        "LICENSE": "",
    },
    ("@highlightjs/cdn-assets", "11.12.0"): {
        "es/highlight.min.js": "",
        "LICENSE": "",
    },
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; gives its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write new sums")
    update = parser.parse_args(argv).update
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "vendor"
        for (name, version), wanted in PACKAGES.items():
            fetch(name, version, wanted, fresh)
        sums = digests(fresh)
        if update:
            SUMS.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{digest}  {path}\n" for path, digest in sums.items()]
            SUMS.write_text("".join(lines), encoding="utf-8")
        wrong = differences(sums, read_sums())
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            print("nothing was written", file=sys.stderr)
            return 1
        for old in [path for path in VENDOR.iterdir() if path.is_dir()]:
            shutil.rmtree(old)
        shutil.copytree(fresh, VENDOR, dirs_exist_ok=True)
    print(f"{len(sums)} files match {SUMS.name}")
    return 0


def fetch(name: str, version: str, wanted: Mapping[str, str], folder: Path) -> None:
    """Puts the wanted files of one package into its own folder under `folder`."""
    command = ["npm", "pack", "--silent", f"{name}@{version}"]
    with tempfile.TemporaryDirectory() as scratch:
        packed = subprocess.run(
            command, cwd=scratch, check=True, capture_output=True, text=True
        )
        with tarfile.open(Path(scratch) / packed.stdout.split()[-1]) as archive:
            archive.extractall(scratch, filter="data")
        root = Path(scratch) / "package"
        target = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}"
        for pattern, place in wanted.items():
            found = [
                path
                for path in sorted(root.rglob("*"))
                if fnmatch(path.relative_to(root).as_posix(), pattern)
            ]
            if not found:
                raise SystemExit(f"{name}@{version} has no {pattern}")
            (target / place).mkdir(parents=True, exist_ok=True)
            for path in found:
                shutil.copyfile(path, target / place / path.name)


def digests(folder: Path) -> dict[str, str]:
    """Gives the SHA-256 of every file in the packages' folders, by relative path."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in files
    }


def read_sums() -> dict[str, str]:
    """Reads the committed list, as `sha256sum --check` would."""
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines]
    return {path: digest for digest, path in pairs}


def differences(found: Mapping[str, str], listed: Mapping[str, str]) -> list[str]:
    """Says for each file that differs from the list how it does."""
    return (
        [f"{path} is not in {SUMS.name}" for path in sorted(found.keys() - listed)]
        + [f"{path} is missing" for path in sorted(listed.keys() - found)]
        + [
            f"{path} has another SHA-256"
            for path in sorted(found.keys() & listed)
            if found[path] != listed[path]
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
