"""Gopher's and C4's rules: documents per second on one core, beside the same filters of datatrove.

The same documents of about 3.5 KB: real prose (the manual of the Python language), real sources, and generated prose
that passes every rule, as most documents of a filtered corpus do. Each way judges all of them in a process of its own,
in turn; rates are by CPU time. datatrove is measured as it is, with spaCy's words, and once more with words between
whitespace, which Longhaul has. Run:

    python benchmarks/cleaning.py --rounds 5 --peer-env cleaning-env
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

from rich.console import Console
from rich.table import Table

from orchestrator.config.preparing import CleanStep
from orchestrator.prepare.clean.cleaner import Cleaner
from orchestrator.prepare.clean.sample import Sample

ASKED_TIMES = 20
CHARACTERS = 3500
RULES = ("gopher_repetition", "gopher_quality", "c4")
PEER = Path(__file__).with_name("cleaning_peer.py")
REQUIRED = ("datatrove==0.10.*", "nltk", "spacy", "regex")
KINDS = ("manual", "sources", "generated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    parser.add_argument("--peer-env", type=Path, help="where datatrove is, or is to be, installed")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)  # one process of Longhaul's
    options = parser.parse_args()
    if options.judge:
        judge_once(options.judge)
        return
    ways = {"longhaul": [sys.executable, __file__, "--judge"]}
    if options.peer_env:
        python = peer_python(options.peer_env)
        ways |= {f"datatrove, {words}": [python, str(PEER), words] for words in ("spaCy", "whitespace")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        kinds, texts = make_documents(options.documents)
        path.write_text(json.dumps(texts))
        taken = take_turns({name: [*way, str(path)] for name, way in ways.items()}, options.rounds)
    show(taken, kinds, sum(len(text.encode()) for text in texts))


def make_documents(count: int) -> tuple[list[str], list[str]]:
    """As many of each kind, and of which kind each is."""
    rng = random.Random(0)
    prose = "\n".join(topics.values())
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    sources = "\n".join(path.read_text("utf-8", "replace") for path in paths)
    vocabulary = [word for word in prose.split() if word.isalpha() and word.islower()]
    makers = {
        "manual": lambda: cut_piece(rng, prose),
        "sources": lambda: cut_piece(rng, sources),
        "generated": lambda: write_prose(rng, vocabulary),
    }
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    return kinds, [makers[kind]() for kind in kinds]


def cut_piece(rng: random.Random, text: str) -> str:
    begin = text.index("\n", rng.randrange(len(text) - 2 * CHARACTERS)) + 1
    return text[begin : begin + CHARACTERS]


def write_prose(rng: random.Random, vocabulary: list[str]) -> str:
    """Sentences in paragraphs, of words as frequent as they are in the manual."""
    lines: list[str] = []
    while sum(map(len, lines)) < CHARACTERS:
        sentences = [" ".join(rng.choices(vocabulary, k=rng.randint(6, 24))) for _ in range(rng.randint(1, 5))]
        lines.append(" ".join(sentence.capitalize() + "." for sentence in sentences))
    return "\n".join(lines)


def judge_once(path: Path) -> None:
    """What a process of Longhaul prints: seconds, and the rule that dropped each document."""
    samples = [Sample(text) for text in json.loads(path.read_text())]
    cleaner = Cleaner.of([CleanStep(name=name) for name in RULES])
    cleaner.judge(samples[:100])
    began, cpu = time.perf_counter(), time.process_time()
    removals = cleaner.judge(samples)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "rules": [one.rule if one else "" for one in removals]}))


def take_turns(commands: dict[str, list[str]], rounds: int) -> dict[str, list[dict[str, object]]]:
    taken: dict[str, list[dict[str, object]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            taken[name].append(json.loads(done.stdout.splitlines()[-1]))
    return taken


def peer_python(folder: Path) -> str:
    python = str(folder.absolute() / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIRED], check=True)
    return python


def show(taken: dict[str, list[dict[str, object]]], kinds: list[str], size_bytes: int) -> None:
    table = Table(
        title=f"Gopher and C4, {len(kinds)} documents of {size_bytes / len(kinds):.0f} bytes", title_justify="left"
    )
    for heading in ("", "per CPU s", "from", "to", "us each", "kept", "agrees", "slower"):
        table.add_column(heading, justify="right")
    own = statistics.median(one["cpu_s"] for one in taken["longhaul"])
    own_rules = taken["longhaul"][0]["rules"]
    for name, rounds in taken.items():
        seconds = sorted(one["cpu_s"] for one in rounds)
        middle, rules = statistics.median(seconds), rounds[0]["rules"]
        same = sum((rule == "") == (other == "") for rule, other in zip(rules, own_rules, strict=True))
        table.add_row(
            name,
            *(f"{len(kinds) / one:,.0f}" for one in (middle, seconds[-1], seconds[0])),
            f"{middle / len(kinds) * 1e6:.0f}",
            f"{rules.count('') / len(rules):.1%}",
            f"{same / len(rules):.1%}",
            f"{middle / own:.1f} x",
        )
    console = Console()
    console.print(table)
    for name, rounds in taken.items():
        found = Counter(f"{kind}: {rule or 'kept'}" for kind, rule in zip(kinds, rounds[0]["rules"], strict=True))
        console.print(name, dict(sorted(found.items())))
    console.print(f"{ASKED_TIMES} times datatrove is asked")


if __name__ == "__main__":
    main()
