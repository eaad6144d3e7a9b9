"""Asks the model server in four ways: urllib, requests, httpx and the openai package, each through the proxy."""

import asyncio
import json
import os
import urllib.request

import httpx
import requests
from openai import AsyncOpenAI

URL = "https://api.openai.com/v1/embeddings"
BODY = {"model": "all-MiniLM-L6-v2", "input": ["hello"], "encoding_format": "float"}


def headers() -> dict[str, str]:
    return {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "content-type": "application/json"}


def by_urllib() -> int:
    asked = urllib.request.Request(URL, json.dumps(BODY).encode(), headers())
    with urllib.request.urlopen(asked) as answer:  # noqa: S310
        return len(json.load(answer)["data"][0]["embedding"])


def by_requests() -> int:
    return len(requests.post(URL, json=BODY, headers=headers(), timeout=20).json()["data"][0]["embedding"])


async def by_httpx() -> int:
    async with httpx.AsyncClient() as client:
        answer = await client.post(URL, json=BODY, headers=headers(), timeout=20)
        return len(answer.json()["data"][0]["embedding"])


async def by_openai() -> int:
    async with AsyncOpenAI() as client:
        answer = await client.embeddings.create(model=BODY["model"], input=BODY["input"], encoding_format="float")
        return len(answer.data[0].embedding)


async def fetch(request, ctx):
    sizes = [
        await asyncio.to_thread(by_urllib),
        await asyncio.to_thread(by_requests),
        await by_httpx(),
        await by_openai(),
    ]
    return {"sizes": sizes}
