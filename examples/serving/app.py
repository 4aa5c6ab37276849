"""A web application that answers from a memory which another process may be writing.

Run it with ``AESG_DIRECTORY=DIR uvicorn examples.serving.app:app --workers 4``.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, field_validator

from aesg import AESGError, AESGMemory, AESGNavigationError, RetrievedContext


class Question(BaseModel):
    """Vectors to look up, each of the memory's width."""

    queries: list[list[float]] = Field(min_length=1, max_length=256)
    top_k: int = Field(default=8, ge=1, le=256)

    @field_validator("queries")
    @classmethod
    def _of_one_width(cls, queries: list[list[float]]) -> list[list[float]]:
        widths = sorted({len(query) for query in queries})
        if len(widths) > 1:
            raise ValueError(f"expected queries of one width, got widths {widths}")
        return queries


class Concept(BaseModel):
    """A concept that a query retrieved.

    Its similarity is the cosine of its key and the query. The payload is null where there is none,
    and where the trainer pruned the concept between the retrieval and the look at its payload.
    Bytes in it come as base64.
    """

    concept_id: int
    weight: float
    similarity: float
    value: int | None
    payload: Any


class Answer(BaseModel):
    """For each query the concepts that it retrieved, most active first."""

    concepts: list[list[Concept]]


class Health(BaseModel):
    """What the memory holds, as this worker sees it."""

    concepts: int
    edges: int
    vector_dim: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the memory in the worker, after any fork, and close it when the worker ends."""
    torch.set_num_threads(1)  # workers and requests run in parallel, a request does not
    with AESGMemory.open(os.environ.get("AESG_DIRECTORY", "./aesg_memory")) as memory:
        app.state.memory = memory
        yield


app = FastAPI(title="AESG memory", lifespan=lifespan)


def opened(request: Request) -> AESGMemory:
    """Return the memory of this worker."""
    memory: AESGMemory = request.app.state.memory
    return memory


Opened = Annotated[AESGMemory, Depends(opened)]


# Plain functions: FastAPI runs them in threads, and the event loop stays free.


@app.post("/retrieve")
def retrieve(question: Question, memory: Opened) -> Answer:
    """Look up all queries in one generation of the memory: the newest."""
    with torch.inference_mode():
        context = memory.retrieve(torch.tensor(question.queries), top_k=question.top_k)
        payloads = memory.payloads(context.concept_ids.ravel())
        return _answer(context, jsonable_encoder(payloads, custom_encoder={bytes: _base64}))


@app.get("/health")
def health(memory: Opened) -> Health:
    """Say what the memory holds; an error if it cannot be read."""
    memory.refresh()
    stored = memory.storage
    return Health(concepts=stored.node_count, edges=stored.edge_count, vector_dim=memory.vector_dim)


@app.exception_handler(AESGError)
def refuse(_: Request, error: AESGError) -> JSONResponse:
    """Say what was wrong: 422 for a query that does not fit, 503 where the memory fails."""
    status = 422 if isinstance(error, AESGNavigationError) else 503
    return JSONResponse({"detail": str(error)}, status_code=status)


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _answer(context: RetrievedContext, payloads: list[Any]) -> Answer:
    ids, weights, values = context.concept_ids, context.weights, context.value_ids  # all (N, K)
    columns = zip(
        ids.ravel().tolist(),
        weights.ravel().tolist(),
        context.found.cosines.ravel().tolist(),
        values.ravel().tolist(),
        payloads,
        strict=True,
    )
    concepts = [
        Concept(concept_id=i, weight=w, similarity=s, value=None if v < 0 else v, payload=p)
        for i, w, s, v, p in columns
    ]
    width = ids.shape[1]
    rows = [concepts[width * row : width * (row + 1)] for row in range(len(ids))]
    return Answer(concepts=[[each for each in row if each.concept_id] for row in rows])
