"""A model server for devnets: OpenAI's embeddings API over a small real model, on this machine only."""
