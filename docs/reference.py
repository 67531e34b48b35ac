"""Writes the pages of the reference, one per room, from the modules there; run by `make docs`."""

import pathlib

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = HERE.parent / "metajax"
CORE = ("types", "tree", "losses")
ROOM_OF = {"optim": "core"}  # a room that stands on the page of another
TITLES = {
    "core": "Core",
    "data": "Data",
    "models": "Models",
    "learners": "Learners",
    "adapters": "Adapters",
    "transforms": "Transforms",
    "runs": "Training, evaluation, records, search",
}


def pages() -> dict[str, list[str]]:
    """Page -> its modules; a folder without a page of its own comes with the runs."""
    found: dict[str, list[str]] = {name: [] for name in TITLES}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
        if parts[-1].startswith("_"):
            continue
        page = "core" if parts[1] in CORE else ROOM_OF.get(parts[1], parts[1])
        found[page if page in found else "runs"].append(".".join(parts))
    order = {f"metajax.{name}": i for i, name in enumerate(CORE)}
    found["core"].sort(key=lambda name: order.get(name, len(order)))
    return found


def main(folder: pathlib.Path = HERE / "reference") -> None:
    """Writes the pages."""
    folder.mkdir(exist_ok=True)
    for page, modules in pages().items():
        body = "\n\n".join(f"::: {name}" for name in modules) or "Nothing yet."
        (folder / f"{page}.md").write_text(f"# {TITLES[page]}\n\n{body}\n")


if __name__ == "__main__":
    main()
