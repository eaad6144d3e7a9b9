"""The worker (pRuntime): attests, takes leases, runs agents, seals state, signs receipts. Wiring only."""
