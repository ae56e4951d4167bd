"use strict";
// The original clips of a sample: members of its shard, if the service offers them.
const clips = (() => {
  const { h, quiet } = dom;
  const LARGE = 20e6; // bytes; a larger clip that is loaded whole waits for a click
  const enabled = !api.report && document.body.dataset.media !== undefined;

  // The clips of a row as figures; none if the sample has none or they are not offered.
  // hold(url): called with each object URL, for its release.
  async function figures(features, row, { signal, hold }) {
    if (!enabled) return [];
    const path = `v1/features/${api.part(features)}/rows/${row}/media`;
    try {
      const { items } = await api.get(path, signal);
      return items.map((item) => figure(`${path}/${api.part(item.suffix)}`, item, signal, hold));
    } catch (error) {
      if (error.name === "AbortError") return [];
      return [h("figure", { class: "clip" }, caption(error.detail ?? String(error)))];
    }
  }

  const caption = (text) => h("figcaption", {}, h("b", {}, "Original clip"), " ", text);

  function figure(path, item, signal, hold) {
    const element = h("figure", { class: "clip" });
    const about = caption(`${item.suffix}, ${format.bytes(item.bytes)}`);
    const show = (url) => element.replaceChildren(player(item, url), about);
    // Only fetch can send a token; without one, the browser requests the ranges that it plays.
    if (!api.token()) show(path);
    else if (item.bytes <= LARGE) load();
    else {
      const name = `Load ${item.suffix} (${format.bytes(item.bytes)})`;
      element.replaceChildren(h("button", { type: "button", onclick: load }, name), about);
    }

    async function load() {
      element.replaceChildren(quiet("Loading …"), about);
      try {
        const response = await api.open(path, { accept: "*/*", signal });
        const url = URL.createObjectURL(await response.blob());
        hold(url);
        show(url);
      } catch (error) {
        if (error.name !== "AbortError") element.replaceChildren(dom.problem(error), about);
      }
    }

    return element;
  }

  function player({ content_type: type, suffix }, url) {
    const [kind] = type.split("/");
    if (kind === "image") return h("img", { src: url, alt: `Original clip: ${suffix}` });
    return h(kind, { src: url, controls: true, preload: "metadata", "aria-label": suffix });
  }

  return { figures };
})();
