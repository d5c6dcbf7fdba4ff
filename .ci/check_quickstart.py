"""Whether a finished quickstart left what the README promises. Reads the files as anybody would, without Longhaul."""

import json
import sys
from pathlib import Path

STEPS = 60


def main(run: Path) -> None:
    checkpoints = sorted((run / "checkpoints").iterdir())
    torn = [path.name for path in checkpoints if not (path / "COMMIT").is_file()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row["loss"] for row in rows if "loss" in row and "kind" not in row}
    perplexities = [row["perplexity"] for row in rows if row.get("kind") == "evaluation"]

    assert rows[0].get("format") == 1, f"metrics.jsonl begins with {rows[0]}"
    assert checkpoints, "there is no checkpoint"
    assert not torn, f"checkpoints without COMMIT: {torn}"
    assert sorted(steps) == list(range(STEPS)), f"metrics.jsonl has {len(steps)} steps, not {STEPS}"
    assert len(perplexities) > 1, "there are no validations to compare"
    assert perplexities[-1] < 0.9 * perplexities[0], f"validation perplexity went {perplexities}"
    print(f"{len(checkpoints)} checkpoints; loss {steps[0]:.3f} -> {steps[STEPS - 1]:.3f}; ", end="")
    print(f"validation perplexity {perplexities[0]:.1f} -> {perplexities[-1]:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
