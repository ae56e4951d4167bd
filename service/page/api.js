"use strict";
// The answers of the service, or of the report that holds them.
const api = (() => {
  const TOKEN = "remix-token";
  const PAGE = 1000;
  const MAX_KNOWN = 500;
  const embedded = document.getElementById("report");
  const report = embedded ? JSON.parse(embedded.textContent) : null;
  const known = new Map(); // path -> { etag, value }: an answer that did not change is the same object
  const lists = new Map(); // path -> { pages, items }

  class Problem extends Error {
    constructor({ title, status = 0, detail = "", request_id = "" }) {
      super(detail || title);
      Object.assign(this, { title, status, detail, requestId: request_id });
    }
  }

  function token(value) {
    try {
      if (value !== undefined) sessionStorage.setItem(TOKEN, value);
      return sessionStorage.getItem(TOKEN);
    } catch {
      return (token.kept = value ?? token.kept);
    }
  }

  async function problemOf(response) {
    try {
      return new Problem({ ...(await response.json()), status: response.status });
    } catch {
      return new Problem({ title: response.statusText || "Error", status: response.status, detail: "The answer is not one of this service." });
    }
  }

  function remember(path, etag, value) {
    known.delete(path);
    known.set(path, { etag, value });
    if (known.size > MAX_KNOWN) known.delete(known.keys().next().value);
    return value;
  }

  async function get(path, signal) {
    if (report) {
      const answer = Object.hasOwn(report.responses, path) ? report.responses[path] : null;
      if (answer && typeof answer.status === "number") throw new Problem(answer); // a problem that the service had
      if (answer) return answer;
      throw new Problem({ title: "Not in this report", status: 404, detail: "The report does not hold this; the service has it." });
    }
    const headers = { Accept: "application/json" };
    if (token()) headers.Authorization = `Bearer ${token()}`;
    let response;
    try {
      response = await fetch(path, { cache: "no-cache", headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "The service does not answer", detail: "It may have been stopped, or the network is down. Trying again." });
    }
    if (!response.ok) throw await problemOf(response);
    const etag = response.headers.get("ETag");
    const text = await response.text();
    const before = known.get(path);
    return before && etag && before.etag === etag ? before.value : remember(path, etag, JSON.parse(text));
  }

  const pagePath = (path, start, limit, query = "") => `${path}?start=${start}&limit=${limit}${query}`;

  // Where the page that follows starts; only the number is taken from `next`, so the page works behind any path prefix.
  const nextStart = ({ next }) => (next ? Number(new URL(next, "http://any/").searchParams.get("start")) : null);

  async function all(path, signal) {
    const pages = [];
    for (let start = 0; start !== null; start = nextStart(pages.at(-1))) pages.push(await get(pagePath(path, start, PAGE), signal));
    const before = lists.get(path);
    if (before && before.pages.length === pages.length && before.pages.every((page, i) => page === pages[i])) return before.items;
    const items = pages.flatMap((page) => page.items);
    lists.set(path, { pages, items });
    return items;
  }

  const part = encodeURIComponent;
  const runPath = (run) => `v1/runs/${part(run)}`;
  return { all, get, nextStart, pagePath, part, Problem, report, runPath, token };
})();
