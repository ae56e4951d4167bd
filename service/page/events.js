"use strict";
// Follows the events of a run by fetch, since EventSource cannot send the token.
const events = (() => {
  const RETRY_MS = 30000;
  const MAX_LINE = 1e6; // characters; events are small, so a longer line is not one
  let refused = 0; // until when the page polls, in milliseconds

  const available = () => !api.report && Date.now() >= refused;

  // Calls onEvent() for each event until the stream ends. Rejects with AbortError if the signal
  // aborts; any other end before the event `end` makes the page poll for a while.
  async function follow(path, signal, onEvent) {
    let ended = false;
    try {
      const response = await api.open(path, { accept: "text/event-stream", signal });
      if (response.status === 204) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (text + value).split("\n");
        text = lines.pop();
        if (text.length > MAX_LINE) break;
        for (const line of lines) {
          if (line.startsWith("event: end")) ended = true;
          if (line.startsWith("data:")) onEvent();
        }
      }
    } finally {
      if (!ended && !signal.aborted) refused = Date.now() + RETRY_MS;
    }
  }

  return { available, follow };
})();
