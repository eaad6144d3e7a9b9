/** Refusals of checkpoints. */

import { ChainViewError, define } from "../errors.ts";

export const STALE = define(
  "chainview.stale",
  ChainViewError,
  "the checkpoint is fresh by the reader's own clock",
  "somebody holds back newer checkpoints, the committee has stopped, or your clock is wrong",
  503,
);
export const SECOND_AT_HEIGHT = define(
  "chainview.second_at_height",
  ChainViewError,
  "a member signs one block per height",
  "the chain reorganised below finality or an endpoint lies: stop and find out which",
  409,
);
export const UNKNOWN_TERM = define(
  "chainview.unknown_term",
  ChainViewError,
  "a statement is of a term that this verifier knows",
  "fetch newer hand-overs; a term before the pinned one is not trusted",
  409,
);
