# SPDX-License-Identifier: Apache-2.0
"""What the site has besides its pages: the flags of every command, and the sources pages link to.

mkdocs calls `on_files` and `on_page_markdown` (`hooks` in mkdocs.yml).
"""

import dataclasses
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# A link to a file of the repository that lies outside docs/, maybe with an anchor.
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+[\w./-]+)(#[\w-]+)?\)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def commands() -> dict[str, type]:
    """The arguments of every command, by what is typed after `lawm-hf`."""
    from lawm_hf.commands import RECIPES, TOOLS, flags_of

    return {name: flags_of(name) for name in (*RECIPES, *TOOLS)}


def flags_markdown() -> str:
    """The page of all flags, made from the commands' own dataclasses."""
    text = (ROOT / "docs/flags.md").read_text()
    lines = text.replace("On the site every flag of every command follows, m", "M").splitlines()
    for name, arguments in commands().items():
        about = (arguments.__doc__ or "").strip().split("\n")[0]
        lines += ["", f"## {name}", "", about, "", "| flag | default | |", "|---|---|---|"]
        lines += [_row(field) for field in dataclasses.fields(arguments)]
    return "\n".join(lines) + "\n"


def _row(field: dataclasses.Field) -> str:
    told = field.metadata
    name = field.name.rstrip("_")
    if field.default_factory is not dataclasses.MISSING:
        default: Any = " ".join(map(str, field.default_factory()))
    else:
        default = field.default
    shown = "required" if default is ... else f"`{default}`" if default not in ("", None) else ""
    text = told["help"] + (f": {', '.join(told['choices'])}" if told["choices"] else "")
    for word, bound in (("at least", "min"), ("above", "above"), ("at most", "max")):
        text += f"; {word} {told[bound]:g}" if told[bound] is not None else ""
    text = re.sub(r"([|<*_\[\]])", r"\\\1", text)
    return f"| `{name if told['positional'] else f'--{name}'}` | {shown} | {text} |"


def outside(markdown: str, page: str) -> dict[str, str]:
    """Files of the repository outside docs/ that a page links to: link -> path from the root."""
    links = {match[1] for match in _OUTSIDE.finditer(markdown)}
    folder = posixpath.join("docs", posixpath.dirname(page))
    paths = {link: posixpath.normpath(posixpath.join(folder, link)) for link in links}
    return {link: path for link, path in paths.items() if not path.startswith("docs/")}


def _source_page(path: str) -> str:
    if path.endswith(".ipynb"):
        return notebook_markdown(path)
    text, language = (ROOT / path).read_text(), _LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n``````{language}\n{text}\n``````\n"


def notebook_markdown(path: str) -> str:
    """A notebook as a page: its text, its code, and links that lead to pages of the site."""
    parts = []
    for cell in json.loads((ROOT / path).read_text())["cells"]:
        text = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        parts.append(f"```python\n{text}\n```" if is_code else text)
    text = re.sub(r"(\]\([\w-]+\.ipynb)\)", r"\1.md)", "\n\n".join(parts))
    return text.replace("](../docs/", "](../../") + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the page of flags, and a page for each file of the repository that is linked to."""
    from mkdocs.structure.files import File

    wanted = set()
    for file in files.documentation_pages():
        wanted |= set(outside(file.content_string, file.src_uri).values())
    for path in sorted(path for path in wanted if (ROOT / path).is_file()):
        uri = f"source/{path}.md"
        files.append(File.generated(config, uri, content=_source_page(path)))
    files.remove(files.get_file_from_path("flags.md"))  # its tables are missing
    files.append(File.generated(config, "flags.md", content=flags_markdown()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to files of the repository to their pages; others stay dead links."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    here = posixpath.dirname(page.file.src_uri)
    for link, path in outside(markdown, page.file.src_uri).items():
        target = os.path.relpath(f"source/{path}.md", here or ".")
        if (ROOT / path).is_file():
            pattern = rf"\]\({re.escape(link)}(#[\w-]+)?\)"
            markdown = re.sub(pattern, f"]({target})", markdown)
    return markdown
