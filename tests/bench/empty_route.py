"""The empty route, the baseline of everything that is asked over HTTP: `python -m tests.bench.empty_route PORT`."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def empty() -> dict[str, bool]:
    """As FastAPI answers at the least, in a thread like every route that is no coroutine."""
    return {"empty": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, ws="none")
