"""The server that tutorials build: FastAPI around transformers, one forward pass for each request.

    python tutorial.py --model DIR --port N [--dtype float32]

Nothing waits for anything, so nothing is padded; nothing is batched either.
"""

import argparse

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Sample(BaseModel):
    """What /predict takes."""

    prompt: str
    response: str


def create_app(model_name: str, dtype: torch.dtype) -> FastAPI:
    """The application, with the model loaded."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForSequenceClassification.from_pretrained(model_name, dtype=dtype).eval()
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict(sample: Sample) -> dict[str, float]:
        # On the event loop: in the thread pool, where a plain `def` would run it, forward passes fight for the cores.
        inputs = tokenizer(sample.prompt, sample.response, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).logits
        return {"score": logits[0, 0].item()}

    return app


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="directory of a sequence classifier with one label")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    flags = parser.parse_args()
    app = create_app(flags.model, getattr(torch, flags.dtype))
    uvicorn.run(app, host="127.0.0.1", port=flags.port, log_level="warning")


if __name__ == "__main__":
    main()
