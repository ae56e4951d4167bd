"use strict";
// One epoch of a run: a slider, the order of its plan, how hard the samples were, and its steps.
const plan = (() => {
  const { chip, h, paged, quiet, table } = dom;
  const STEPS = 25;
  const ROWS_SHOWN = 12;
  const MEASURES = { difficulty: "normalised entropy, 0 to 1", kl: "ability, bits" };

  // onEpoch(epoch, isLast): the slider moved.
  function section(run, modalities, { signal, onEpoch }) {
    const style = charts.palette(modalities);
    const mark = (name) => (modalities.includes(name) ? chip(name, style(name).colour) : chip(name === "all" ? "all modalities" : name, "var(--neutral)"));
    let epochs = [];
    let epoch = null;
    let stats = null;
    let measure = "difficulty";
    let loading = new AbortController();

    const slider = h("input", { type: "range", id: "epoch", min: 0, step: 1, value: 0, oninput: () => choose(epochs[Number(slider.value)]) });
    const output = h("output", { for: "epoch" });
    const step = (by, name, text) => h("button", { type: "button", "aria-label": name, onclick: () => choose(epochs[epochs.indexOf(epoch) + by]) }, text);
    const bar = h("div", { class: "slider" }, h("label", { for: "epoch" }, "Epoch"), output, step(-1, "Previous epoch", "‹"), slider, step(1, "Next epoch", "›"));
    const trouble = h("div");
    const facts = h("div");
    const order = charts.figure("Order of the plan", { note: "Every global step in its order, coloured by the modality that it trains.", height: 110 });
    const shares = table("Modalities of the plan", [{ name: "modality", head: true }, { name: "share", num: true }, { name: "samples", num: true }, { name: "steps", num: true }, { name: "mean difficulty", num: true }, { name: "mean KL, bits", num: true, wide: true }, { name: "missing", num: true, wide: true }]);
    const histograms = new Map(modalities.map((name) => [name, charts.figure(name, { height: 180 })]));
    const noScores = quiet("This epoch has no scores of its own: in warm-up every sample trains all modalities.");
    const radios = Object.keys(MEASURES).map((each) => h("label", {}, h("input", { type: "radio", name: "measure", value: each, checked: each === measure, onchange: () => { measure = each; drawHistograms(); } }), each === "kl" ? "KL from uniform" : "Difficulty"));
    const graphs = h("div", { class: "grid small" }, [...histograms.values()].map((chart) => chart.element));
    const hardness = h("div", { class: "part" }, h("div", { class: "bar" }, h("h3", {}, "How hard the samples are"), h("fieldset", { class: "seg" }, h("legend", { class: "hidden" }, "Measure"), radios)), noScores, graphs);
    const filter = h("select", { id: "steps-modality", onchange: () => steps.first() }, h("option", { value: "" }, "all"), modalities.map((name) => h("option", { value: name }, name)));
    const steps = paged({
      caption: "Steps",
      columns: [{ name: "step", head: true, num: true }, { name: "modality" }, { name: "samples", num: true }, { name: "rows", fill: true }],
      limit: STEPS,
      empty: "The plan has no such steps.",
      total: () => (filter.value ? stats?.modalities[filter.value]?.num_steps ?? 0 : stats?.num_steps ?? null),
      load: (start, limit) => api.get(api.pagePath(`${path()}/steps`, start, limit, filter.value ? `&modality=${api.part(filter.value)}` : ""), loading.signal),
      row: (each) => [format.integer(each.step), mark(each.modality), format.integer(each.rows.length), rowNumbers(each.rows)],
    });
    const body = h("div", { class: "part" }, facts, order.element, shares.element, hardness, h("div", { class: "bar" }, h("h3", {}, "Steps"), api.report ? null : [h("label", { for: "steps-modality", class: "note" }, "modality"), filter]), steps.element);
    const none = quiet("No plan is written yet.");

    const path = () => `${api.runPath(run)}/plans/${epoch}`;

    async function choose(to) {
      if (to === epoch || !epochs.includes(to)) return;
      epoch = to;
      place();
      onEpoch(epoch, epoch === epochs.at(-1));
      loading.abort();
      loading = new AbortController();
      await load(loading.signal, true);
    }

    function place() {
      slider.max = String(Math.max(0, epochs.length - 1));
      slider.value = String(epochs.indexOf(epoch));
      slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
      output.textContent = `${epoch} of ${epochs.at(-1)}`;
      bar.hidden = body.hidden = !epochs.length;
      none.hidden = epochs.length > 0;
    }

    async function load(own, fromStart) {
      try {
        const [detail, found] = await Promise.all([api.get(path(), own), api.get(`${path()}/stats`, own)]);
        if (own.aborted) return;
        trouble.replaceChildren();
        body.hidden = false;
        if (found === stats && !fromStart) return;
        stats = found;
        draw(detail);
        await (fromStart ? steps.reset() : steps.refresh());
      } catch (error) {
        if (error.name === "AbortError" || own.aborted) return;
        stats = null;
        body.hidden = true;
        trouble.replaceChildren(dom.problem(error));
      }
    }

    function draw(detail) {
      const sizes = stats.batch_sizes;
      const size = sizes.min === sizes.max ? format.integer(sizes.max) : `${format.integer(sizes.min)} to ${format.integer(sizes.max)}`;
      facts.replaceChildren(dom.facts([["policy", detail.policy], ["steps", format.integer(stats.num_steps)], ["samples", format.integer(stats.num_rows)], ["samples a step", size], ["order", detail.order ?? format.NONE], ["switches of modality", format.integer(stats.num_switches)], ["churn", format.percent(stats.churn)], ["read amplification", format.fixed(stats.read_amplification)], ["fingerprint", h("code", {}, detail.fingerprint.slice(0, 12))]]));
      order.reset();
      order.draw(() => strip());
      const scores = stats.histograms;
      const own = Object.keys(stats.modalities);
      shares.update(own.map((name) => [mark(name), format.percent(stats.modalities[name].share), format.integer(stats.modalities[name].num_rows), format.integer(stats.modalities[name].num_steps), format.fixed(scores?.[name]?.difficulty?.mean), format.fixed(scores?.[name]?.kl.mean), format.integer(scores?.[name]?.num_missing)]));
      drawHistograms();
    }

    function strip() {
      const { edges, num_steps: counts } = stats.order;
      const names = Object.keys(counts);
      const widths = edges.slice(1).map((edge, i) => edge - edges[i]);
      const middles = widths.map((width, i) => edges[i] + width / 2);
      const traces = names.map((name) => charts.bars(name === "all" ? "all modalities" : name, middles, counts[name].map((num, i) => (widths[i] ? num / widths[i] : 0)), style(name), { width: widths }));
      const summary = names.map((name) => `${name}: ${format.count(stats.modalities[name]?.num_steps, "step")}`).join(", ");
      return {
        traces, summary: `${summary}; ${format.count(stats.num_switches, "switch", "switches")} of modality.`,
        layout: { barmode: "stack", bargap: 0, x: { title: { text: "step", standoff: 4 }, range: [edges[0], edges.at(-1)], hoverformat: ".0f" }, y: { visible: false, range: [0, 1], hoverformat: ".0%" }, margin: { l: 12, r: 12, t: 2, b: 36 } },
        columns: [{ name: "steps", head: true }, ...names.map((name) => ({ name, num: true }))],
        rows: widths.map((width, i) => [width > 1 ? `${edges[i]} – ${edges[i + 1] - 1}` : String(edges[i]), ...names.map((name) => format.integer(counts[name][i]))]),
      };
    }

    function drawHistograms() {
      const scores = stats?.histograms;
      noScores.hidden = Boolean(scores);
      graphs.hidden = !scores;
      if (!scores) return;
      const top = Math.max(1, ...modalities.map((name) => Math.max(0, ...(scores[name]?.[measure]?.counts ?? []))));
      for (const [name, chart] of histograms) chart.draw(() => histogram(name, scores[name]?.[measure], top));
    }

    function histogram(name, found, top) {
      if (!found) return { traces: [], empty: measure === "difficulty" ? "The number of classes is not known: see KL." : "No scores." };
      const { edges, counts, assigned } = found;
      const middles = counts.map((_, i) => (edges[i] + edges[i + 1]) / 2);
      const width = counts.map((_, i) => edges[i + 1] - edges[i]);
      const sum = (values) => (values ?? []).reduce((a, b) => a + b, 0);
      const all = charts.bars("all samples", middles, counts, { colour: "var(--s5)" }, { width });
      const own = charts.bars(`trains ${name}`, middles, assigned ?? [], style(name), { width });
      return {
        traces: assigned ? [all, own] : [all],
        summary: `Epoch ${epoch}: ${format.integer(sum(counts))} samples, mean ${measure} ${format.fixed(found.mean)}; ${format.integer(sum(assigned))} of them train ${name}.`,
        layout: { barmode: "overlay", bargap: 0, x: { title: { text: MEASURES[measure], standoff: 4 }, range: [edges[0], edges.at(-1)], hoverformat: ".2f" }, y: { range: [0, top * 1.05] } },
        columns: [{ name: measure, head: true }, { name: "all", num: true }, { name: "assigned", num: true }],
        rows: counts.map((num, i) => [`${format.fixed(edges[i])} – ${format.fixed(edges[i + 1])}`, format.integer(num), format.integer(assigned?.[i])]),
      };
    }

    // found: epochs that have a plan; wanted: the chosen one, or null for the newest.
    async function update(found, wanted) {
      epochs = found;
      if (!epochs.length) return place();
      const to = wanted !== null && epochs.includes(wanted) ? wanted : epochs.at(-1);
      const moved = to !== epoch;
      epoch = to;
      place();
      if (moved) {
        loading.abort();
        loading = new AbortController();
      }
      await load(loading.signal, moved);
    }

    signal.addEventListener("abort", () => loading.abort());
    place();
    return { element: h("section", { class: "part", id: "plan" }, h("h2", {}, "One epoch"), none, bar, trouble, body), choose, update, epoch: () => epoch };
  }

  function rowNumbers(rows) {
    const first = rows.slice(0, ROWS_SHOWN).join(", ");
    if (rows.length <= ROWS_SHOWN) return h("span", { class: "rows" }, first);
    return h("details", { class: "rows" }, h("summary", {}, `${first}, …`), rows.slice(ROWS_SHOWN).join(", "));
  }

  return { section };
})();
