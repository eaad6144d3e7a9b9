// The agent of the call benchmarks. The same file is served by plain Deno (direct.js), which is the limit.
const encoder = new TextEncoder();

export default {
  async fetch(request) {
    if (request.url.endsWith("/stream")) return new Response(stream(), { headers: { "content-type": "text/event-stream" } });
    const { text } = await request.json();
    return Response.json({ length: text.length, reversed: text.slice(0, 40) });
  },
};

function stream() {
  return new ReadableStream({
    async start(controller) {
      for (let count = 0; count < 8; count++) {
        controller.enqueue(encoder.encode(`data: {"count": ${count}}\n\n`));
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      controller.close();
    },
  });
}
