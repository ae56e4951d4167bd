"use strict";
// The features of one sample: a picture or the text of each modality.
const media = (() => {
  const { chip, h, quiet } = dom;

  // features: the name of the feature set; modalities: their names; signal: aborted when the view
  // closes.
  function section(features, modalities, { signal }) {
    const style = charts.palette(modalities);
    const element = h("div", { class: "media" });
    const pictured = picturedRows(features);
    let shown = null;
    let urls = [];

    const release = () => {
      for (const url of urls) URL.revokeObjectURL(url);
      urls = [];
    };
    signal.addEventListener("abort", release);

    // Shows a sample; history: the response of the service.
    async function show(history) {
      if (shown === history.sample_id) return;
      shown = history.sample_id;
      release();
      if (api.report && !pictured.has(String(history.row))) {
        const num = format.count(pictured.size, "sample");
        element.replaceChildren(
          quiet(`This report holds the pictures of ${num}; the service has the others.`),
        );
        return;
      }
      const present = modalities.filter((name) => history.has[name]);
      const figures = await Promise.all(present.map((name) => figure(history, name)));
      if (shown !== history.sample_id) return;
      element.replaceChildren(...figures.filter(Boolean));
      const hold = (url) =>
        shown === history.sample_id ? urls.push(url) : URL.revokeObjectURL(url);
      const originals = await clips.figures(features, history.row, { signal, hold });
      if (originals.length && shown === history.sample_id)
        element.append(h("div", { class: "clips" }, originals));
    }

    async function figure(history, name) {
      const path = `v1/features/${api.part(features)}/rows/${history.row}/modalities/${api.part(name)}`;
      const title = chip(name, style(name).colour);
      try {
        const row = await api.get(path, signal);
        const { content, about } = row.picture
          ? { content: await picture(path, row, history.sample_id), about: row.picture }
          : { content: text(row), about: "" };
        const kind = row.kind === name ? "" : row.kind;
        const facts = [kind, row.shape.join("\u00a0×\u00a0"), row.dtype, about].filter(Boolean);
        return h("figure", { "data-modality": name }, content, h("figcaption", {}, title, " ", facts.join(", ")));
      } catch (error) {
        if (error.name === "AbortError") return null;
        const reason = error.detail ?? String(error);
        return h("figure", { "data-modality": name }, h("figcaption", {}, title, " ", reason));
      }
    }

    async function picture(path, row, id) {
      const url = api.report ? await api.get(`${path}/image`) : await load(`${path}/image`);
      const alt = `${row.modality} of ${id}: ${row.picture}`;
      return h("img", { src: url, alt, width: row.width, height: row.height });
    }

    async function load(path) {
      const response = await api.open(path, { accept: "image/png", signal });
      const url = URL.createObjectURL(await response.blob());
      urls.push(url);
      return url;
    }

    const text = (row) =>
      row.text === null
        ? quiet("Token ids: the text is in the shard.")
        : h("blockquote", {}, row.text);

    return { element, show };
  }

  // Rows of the samples whose pictures a report contains.
  function picturedRows(features) {
    const prefix = `v1/features/${api.part(features)}/rows/`;
    const paths = Object.keys(api.report?.responses ?? {}).filter((path) => path.startsWith(prefix));
    return new Set(paths.map((path) => path.slice(prefix.length).split("/")[0]));
  }

  return { section };
})();
