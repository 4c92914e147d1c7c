"""A server that behaves as OpenRLHF's `serve_rm` does, written from its documented behaviour.

    python serve_rm.py --model DIR --port N [--dtype float32]

A POST carries a list of texts that are already rendered, special tokens included. They are tokenised together, padded
to the longest and scored in one forward pass, on the event loop: requests wait for one another and share nothing.
"""

import argparse

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class RewardRequest(BaseModel):
    """What /get_reward takes; `prompts` is sent by training loops and not used."""

    query: list[str]
    prompts: list[str] = []


def create_app(model_name: str, dtype: torch.dtype, max_len: int) -> FastAPI:
    """The application, with the model loaded."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForSequenceClassification.from_pretrained(model_name, dtype=dtype).eval()
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/get_reward")
    async def get_reward(request: RewardRequest) -> dict[str, list[float]]:
        # Padded on the tokenizer's own side: OpenRLHF's left side suits decoders, an encoder's positions would shift.
        inputs = tokenizer(
            request.query,
            add_special_tokens=False,
            padding=True,
            truncation=True,
            max_length=max_len,
            return_tensors="pt",
        )
        with torch.inference_mode():
            rewards: list[float] = model(**inputs).logits[:, 0].float().tolist()
        return {"rewards": rewards, "scores": rewards}

    return app


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="directory of a sequence classifier with one label")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--max_len", type=int, default=512, help="tokens at which texts are cut")
    flags = parser.parse_args()
    app = create_app(flags.model, getattr(torch, flags.dtype), flags.max_len)
    uvicorn.run(app, host="127.0.0.1", port=flags.port, log_level="warning")


if __name__ == "__main__":
    main()
