// The limit: the agent served by Deno itself, in plain text, without a sandbox.
import agent from "./small.js";

Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: ({ port }) => console.log(port) }, (request) => agent.fetch(request));
