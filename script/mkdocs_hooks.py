"""What the documentation build adds to MkDocs: links from pages to source files, and reference pages that list every module.

Pages link to files of the repository by relative path (`../overlay/view.py`), which works wherever the repository is read as files. In
the built site such a link leads to the module's reference entry, or becomes plain text for files that have none. A link to a file
that does not exist is a warning, and `mkdocs build --strict` makes it an error.

A line `<!-- modules: srwan.overlay -->` becomes the reference of all modules of that package. So a new module is documented without
anybody thinking of it, and none can be listed that is gone.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.srwan")

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("overlay", "gossip", "routing", "ledger_client")
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
MODULES = re.compile(r"^<!-- modules: (?P<package>[\w.]+) -->$", re.MULTILINE)


def module_names(package: str) -> list[str]:
    """Return the public modules of a package, sorted; of `srwan` itself only those beside it, and of its other packages all."""
    folder = ROOT / "src" / Path(*package.split("."))
    found = [path for path in folder.glob("*.py") if path.name == "__init__.py" or not path.name.startswith("_")]
    names = {package if path.stem == "__init__" else f"{package}.{path.stem}" for path in found}
    return sorted(names)


def reference_of(path: Path) -> str | None:
    """Return where below docs/ a source file is documented, with its anchor, or None if it is not."""
    relative = path.relative_to(ROOT)
    if relative.suffix != ".py":
        return None
    if relative.parts[0] in ROOMS:
        page, module = relative.parts[0], ".".join(("srwan", *relative.with_suffix("").parts))
    elif relative.parts[:2] == ("src", "srwan"):
        page = relative.parts[2] if len(relative.parts) > 3 else "base"
        module = ".".join(relative.with_suffix("").parts[1:])
    else:
        return None
    if not (ROOT / "docs/reference" / f"{page}.md").is_file():
        return None
    return f"reference/{page}.md#{module.removesuffix('.__init__')}"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Expand the module lists and point links to source files at their reference entries."""
    source = str(page.file.src_uri)
    folder = posixpath.dirname(source)

    def replaced(match: re.Match[str]) -> str:
        target = (ROOT / "docs" / folder / match["target"]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            log.warning("%s links to %s, which does not exist", source, match["target"])
            return match[0]
        reference = reference_of(target) if target.is_file() else None
        if reference is None:
            return match["text"]
        return f"[{match['text']}]({posixpath.relpath(reference, folder or '.')})"

    def listed(match: re.Match[str]) -> str:
        return "\n\n".join(f"::: {name}" for name in module_names(match["package"]))

    return MODULES.sub(listed, LINK.sub(replaced, markdown))
