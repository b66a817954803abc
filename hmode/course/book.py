"""Pages from the notebooks as committed, without running anything: slides, and a static book."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
from nbconvert import SlidesExporter

from hmode.course.copies import as_slides, numbered, tags
from hmode.errors import InputError

DEMOS = ("sigma", "pair", "mixture", "rel", "gates", "game")
PAGES = ("glossary.md", "results.md", "teaching.md")  # of docs/

CONFIG = """
title: Counting crowds with experts
author: The hmode authors
only_build_toc_files: true
execute:
  execute_notebooks: "off"
html:
  use_issues_button: false
  use_repository_button: false
  use_edit_page_button: false
sphinx:
  extra_extensions: [sphinx-mathjax-offline]
  config:
    html_show_copyright: false
    html_extra_path: [data]
    myst_enable_extensions: [dollarmath, amsmath, deflist]
    myst_heading_anchors: 3
    suppress_warnings: [myst.header, mystnb.unknown_mime_type]
"""

FIGURES = """<style>
.reveal .jp-OutputArea img { width: 100%; max-height: 560px; object-fit: contain; margin: 0; }
</style>
"""
THEBE = re.compile(
    r"<script>const THEBE_JS_URL.*?</script>|<script [^>]*sphinx-thebe.*?</script>"
    r'|<script type="text/x-thebe-config">.*?</script>',
    re.DOTALL,
)

INDEX = """# Counting crowds with experts

A course around *Redesigning Multi-Scale Neural Network for Crowd Counting*: the notebooks with the
outputs of their last run, and demonstrations that need neither Python nor a server. Solutions are
folded below each exercise. To run, change and check things yourself, take the notebooks.

"""


def slides(notebooks: Path, to: Path) -> list[Path]:
    """A deck for each notebook, as HTML. Decks fetch their scripts from the net, unless
    `npm install --prefix TO reveal.js@4 mathjax@2 requirejs@2 jquery@3` put them beside the decks
    before."""
    exporter = SlidesExporter(exclude_input=True, exclude_output_prompt=True)
    exporter.reveal_scroll = True
    if (to / "node_modules" / "requirejs").is_dir():
        exporter.reveal_url_prefix = "node_modules/reveal.js"
        exporter.require_js_url = "node_modules/requirejs/require.js"
        exporter.jquery_url = "node_modules/jquery/dist/jquery.min.js"
        exporter.mathjax_url = "node_modules/mathjax/MathJax.js?config=TeX-AMS_CHTML-full"
    to.mkdir(parents=True, exist_ok=True)
    decks = []
    for path in numbered(notebooks):
        page, _ = exporter.from_notebook_node(as_slides(nbformat.read(path, as_version=4)))
        decks.append(to / f"{path.stem}.slides.html")
        decks[-1].write_text(page.replace("</head>", f"{FIGURES}</head>", 1), encoding="utf-8")
    return decks


def build(project: Path, to: Path, builder: str = "jupyter-book") -> Path:
    """Build the book in a folder.

    Args:
        project: a clone of the project.
        to: folder; what lies there is replaced.
        builder: jupyter-book 1.x; version 2 does not build offline.

    Returns:
        The page to open.

    Raises:
        InputError: there is no such builder, or it failed.
    """
    if shutil.which(builder) is None:
        raise InputError(f"{builder} is not installed; pip install 'hmode[course]'")
    shutil.rmtree(to, ignore_errors=True)
    stage(project, to)
    done = subprocess.run([builder, "build", str(to)], capture_output=True, text=True)
    page = to / "_build" / "html" / "index.html"
    if done.returncode or not page.is_file():
        raise InputError(f"{builder} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    _slim(page.parent)
    return page


def _slim(html: Path) -> None:
    """Without what makes pages heavy and no page needs: a script that draws all the icons there are
    (a font has them too), MathJax's other bundles, and the cells run elsewhere by thebe, whose
    script would stop with an error."""
    (html / "_static" / "scripts" / "fontawesome.js").write_text("")
    for path in (html / "_static" / "mathjax").glob("*.js"):
        if path.name != "tex-chtml.js":
            path.unlink()
    shutil.rmtree(html / "_static" / "mathjax" / "sre", ignore_errors=True)
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(THEBE.sub("", text), encoding="utf-8")


def stage(project: Path, to: Path) -> None:
    """Write the book's sources: pages, notebooks with folded solutions, demos and their data."""
    (to / "demos").mkdir(parents=True)
    chapters = [path.stem for path in numbered(project / "notebooks")]
    for path in numbered(project / "notebooks"):
        nbformat.write(as_chapter(nbformat.read(path, as_version=4)), to / path.name)
    here = Path(__file__).parent / "demos"
    for name in DEMOS:
        shutil.copy(here / f"{name}.md", to / "demos")
    shutil.copytree(here, to / "_static", ignore=shutil.ignore_patterns("*.md"))
    maps = project / "figures" / "paper" / "sha" / "maps" / "IMG_116.npz"
    (to / "data").mkdir()
    (to / "data" / "gates.js").write_text(gates_script(maps))
    pages = [name for name in PAGES if (project / "docs" / name).is_file()]
    for name in pages:
        text = (project / "docs" / name).read_text(encoding="utf-8")
        (to / name).write_text(links_within(text), encoding="utf-8")
    (to / "_config.yml").write_text(CONFIG)
    (to / "index.md").write_text(INDEX)
    parts = {
        "Notebooks": chapters,
        "Demonstrations": [f"demos/{name}" for name in DEMOS],
        "Beside them": [Path(name).stem for name in pages],
    }
    toc = [{"caption": c, "chapters": [{"file": f} for f in files]} for c, files in parts.items()]
    contents = {"format": "jb-book", "root": "index", "parts": toc}
    (to / "_toc.yml").write_text(json.dumps(contents, indent=1))  # JSON is YAML


def links_within(text: str) -> str:
    """Links to notebooks and pages lead to the book's; to what the book lacks there is none."""
    text = re.sub(r"\]\((?:\.\./)?(?:notebooks/|docs/)?([\w.-]+\.(?:ipynb|md)[)#])", r"](\1", text)
    kept = "|".join(map(re.escape, PAGES))
    return re.sub(rf"(?<!!)\[([^]]+)\]\((?!\d\d-|#|https?:|{kept})[^)]*\)", r"\1", text)


def as_chapter(notebook):
    """Solutions folded; nothing to fill in or to check, as nothing runs."""
    notebook.cells = [c for c in notebook.cells if not {"answer", "check"} & set(tags(c))]
    for cell in notebook.cells:
        if "solution" in tags(cell):
            cell.metadata["tags"] = ["hide-cell"]
        elif "parameters" in tags(cell):
            cell.metadata["tags"] = ["hide-input"]
        elif cell.cell_type == "markdown":
            cell.source = links_within(cell.source)
    return notebook


def gates_script(path: Path) -> str:
    """Stored maps of one image (see `hmode.experiments`' maps) as a script for the demo."""
    stored = np.load(path)
    names = ["E1", "E2", "E3", "group 1", "group 2", "group 3", "final map"]
    shown = [("truth", stored["truth"].astype(float), None)]
    shown += [(n, m, None) for n, m in zip(names, stored["maps"].astype(float), strict=True)]
    pairs = [f"gate 1, group {g}, member {m}" for g in (1, 2, 3) for m in (1, 2)]
    shown += [(n, m, 1.0) for n, m in zip(pairs, stored["gate1"].astype(float), strict=True)]
    groups = [f"gate 2, group {g}" for g in (1, 2, 3)]
    shown += [(n, m, 1.0) for n, m in zip(groups, stored["gate2"].astype(float), strict=True)]
    top = float(np.quantile(stored["truth"].astype(float), 0.995))
    entries = [
        {
            "name": name,
            "columns": values.shape[1],
            "top": 100 if limit else 1000,
            "words": f"mean weight {values.mean():.2f}" if limit else "brightest as in the truth",
            "values": np.rint(values / (limit or top) * (100 if limit else 1000))
            .clip(0, 2000)
            .astype(int)
            .ravel()
            .tolist(),
        }
        for name, values, limit in shown
    ]
    return "const GATES = " + json.dumps(entries, separators=(",", ":")) + ";\n"
