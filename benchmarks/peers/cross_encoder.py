"""sentence-transformers' CrossEncoder behind FastAPI, with what waits scored together.

    python cross_encoder.py --model DIR --port N [--dtype float32]

`CrossEncoder.predict` sorts by length and batches, but only within one call. So that this helps clients that send one
pair at a time, whatever waits when the model is free goes into the next call.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

#: Pairs of one call of `predict`; more would hold up those who wait without filling its batches of 32 any better.
MOST = 128

Waiting = tuple[tuple[str, str], asyncio.Future[float]]


class PairRequest(BaseModel):
    """What /predict takes."""

    query: str
    document: str


class Collector:
    """Gathers pairs while the model is busy.

    Args:
        model: does the work, in a thread.
        batch_size: pairs of one forward pass.
    """

    def __init__(self, model: CrossEncoder, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()

    async def score(self, pair: tuple[str, str]) -> float:
        """The score of one pair."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pair, future))
        return await future

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MOST:
                batch.append(self._waiting.get_nowait())
            scores = await asyncio.to_thread(self._predict, [pair for pair, _ in batch])
            for (_, future), score in zip(batch, scores, strict=True):
                if not future.done():
                    future.set_result(score)

    def _predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        scores: list[float] = self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False).tolist()
        return scores


def create_app(model_name: str, dtype: torch.dtype, batch_size: int) -> FastAPI:
    """The application, with the model loaded."""
    model = CrossEncoder(model_name, device="cpu", activation_fn=torch.nn.Identity(), model_kwargs={"dtype": dtype})
    collector = Collector(model, batch_size)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(collector.run())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict(request: PairRequest) -> dict[str, float]:
        return {"score": await collector.score((request.query, request.document))}

    return app


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="directory of a sequence classifier with one label")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs of one forward pass")
    flags = parser.parse_args()
    app = create_app(flags.model, getattr(torch, flags.dtype), flags.batch_size)
    uvicorn.run(app, host="127.0.0.1", port=flags.port, log_level="warning")


if __name__ == "__main__":
    main()
