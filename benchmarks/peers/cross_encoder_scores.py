"""What sentence-transformers' `CrossEncoder` makes of a checkpoint: input ids and scores of prompt and response.

    python cross_encoder_scores.py --checkpoint DIR --pairs PAIRS.json --output SCORES.json

Writes a list of `{"token_ids": [...], "score": x}`.
"""

import argparse
import json
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder


def main() -> None:
    """Scores the pairs and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="a JSON list of [prompt, response]")
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    pairs = json.loads(flags.pairs.read_text(encoding="utf-8"))
    model = CrossEncoder(flags.checkpoint, device="cpu", activation_fn=torch.nn.Identity())
    scores = model.predict([tuple(pair) for pair in pairs], show_progress_bar=False).tolist()
    ids = [model.preprocess([tuple(pair)])["input_ids"][0].tolist() for pair in pairs]
    rows = [{"token_ids": one, "score": score} for one, score in zip(ids, scores, strict=True)]
    flags.output.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
