"use strict";
// Requests to the service; in a report, the responses that are embedded in the page.
const api = (() => {
  const TOKEN = "remix-token";
  const PAGE_SIZE = 1000;
  const MAX_CACHED = 500;
  const embedded = document.getElementById("report");
  const report = embedded ? JSON.parse(embedded.textContent) : null;
  const cache = new Map(); // path -> { etag, value }: an unchanged response is returned as the same object
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
      return new Problem({
        title: response.statusText || "Error",
        status: response.status,
        detail:
          "The response is not from this service. Check the address and any proxy in between.",
      });
    }
  }

  function store(path, etag, value) {
    cache.delete(path);
    cache.set(path, { etag, value });
    if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
    return value;
  }

  // The response of the service, whatever its content. Throws Problem.
  async function open(path, { accept, signal }) {
    const headers = { Accept: accept };
    if (token()) headers.Authorization = `Bearer ${token()}`;
    let response;
    try {
      response = await fetch(path, { cache: "no-cache", headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({
        title: "The service does not respond",
        detail: "It may have stopped, or the network is down. Trying again.",
      });
    }
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  async function get(path, signal) {
    if (report) {
      const body = Object.hasOwn(report.responses, path) ? report.responses[path] : null;
      if (body && typeof body.status === "number") throw new Problem(body); // an error when the report was made
      if (body) return body;
      throw new Problem({
        title: "Not in this report",
        status: 404,
        detail: "Reports contain a part of the data. Use the service to see everything.",
      });
    }
    const response = await open(path, { accept: "application/json", signal });
    const etag = response.headers.get("ETag");
    const text = await response.text();
    const before = cache.get(path);
    return before && etag && before.etag === etag
      ? before.value
      : store(path, etag, JSON.parse(text));
  }

  const pagePath = (path, start, limit, query = "") =>
    `${path}?start=${start}&limit=${limit}${query}`;

  // Start of the next page. Only the number is read from `next`, so that this works behind any path
  // prefix.
  const nextStart = ({ next }) =>
    next ? Number(new URL(next, "http://any/").searchParams.get("start")) : null;

  async function all(path, signal) {
    const pages = [];
    for (let start = 0; start !== null; start = nextStart(pages.at(-1)))
      pages.push(await get(pagePath(path, start, PAGE_SIZE), signal));
    const before = lists.get(path);
    if (
      before &&
      before.pages.length === pages.length &&
      before.pages.every((page, i) => page === pages[i])
    )
      return before.items;
    const items = pages.flatMap((page) => page.items);
    lists.set(path, { pages, items });
    return items;
  }

  const part = encodeURIComponent;
  const runPath = (run) => `v1/runs/${part(run)}`;
  return { all, get, nextStart, open, pagePath, part, Problem, report, runPath, token };
})();
