/** What finalised rules refuse. */

import { define, PolicyError } from "../errors.ts";

export const WORKER_UNKNOWN = define(
  "policy.worker_unknown",
  PolicyError,
  "the worker is registered at the checkpoint",
  "register the worker with the committee's admission, then wait for finality",
  403,
);
export const WORKER_REMOVED = define(
  "policy.worker_removed",
  PolicyError,
  "the worker is neither removed nor gone, at the checkpoint or at any newer block seen",
  "a removed worker gets no keys; start it with a new identity and a new admission",
  403,
);
export const AGENT_UNKNOWN = define(
  "policy.agent_unknown",
  PolicyError,
  "the agent exists at the checkpoint",
  "check the agent id and the network; a new agent appears when its block is final",
  404,
);
export const PAUSED = define(
  "policy.paused",
  PolicyError,
  "the agent is not paused, at the checkpoint or at any newer block seen",
  "its owner resumes it with `cloister agent resume`",
  403,
);
