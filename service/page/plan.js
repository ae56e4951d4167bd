"use strict";
// The plan of one epoch: a slider over epochs, the order of the steps, histograms of difficulty,
// and the steps.
const plan = (() => {
  const { chip, h, paged, quiet, table } = dom;
  const NUM_STEPS = 25;
  const ROWS_SHOWN = 12;
  const AXIS = "difficulty, 0 to 1";

  // onEpoch(epoch, isLast): called if the user selects another epoch; onSample(id): opens a sample;
  // sampleLink(id): a link that does; sampled: whether to show single samples.
  function section(run, modalities, { signal, onEpoch, onSample, sampleLink, sampled }) {
    const style = charts.palette(modalities);
    const modalityChip = (name) =>
      modalities.includes(name)
        ? chip(name, style(name).colour)
        : chip(name === "all" ? "all modalities" : name, "var(--neutral)");
    let epochs = [];
    let epoch = null;
    let stats = null;
    let loading = new AbortController();

    const slider = h("input", {
      type: "range",
      id: "epoch",
      min: 0,
      step: 1,
      value: 0,
      oninput: () => choose(epochs[Number(slider.value)]),
    });
    const output = h("output", { for: "epoch" });
    const step = (by, name, text) =>
      h(
        "button",
        {
          type: "button",
          "aria-label": name,
          onclick: () => choose(epochs[epochs.indexOf(epoch) + by]),
        },
        text,
      );
    const bar = h(
      "div",
      { class: "slider" },
      h("label", { for: "epoch" }, "Epoch"),
      output,
      step(-1, "Previous epoch", "‹"),
      slider,
      step(1, "Next epoch", "›"),
    );
    const errors = h("div");
    const properties = h("div");
    const order = charts.figure("order", "Order of the steps", {
      note: "All steps from first to last, coloured by the modality that they train.",
      height: 110,
    });
    const shares = table("Modalities in the plan", [
      { name: "modality", head: true },
      { name: "share of samples", num: true },
      { name: "samples", num: true },
      { name: "steps", num: true },
      { name: "mean difficulty", num: true },
      { name: "samples without it", num: true, wide: true },
    ]);
    const histograms = new Map(
      modalities.map((name) => [name, charts.figure(`histogram-${name}`, name, { height: 180 })]),
    );
    const noScores = h(
      "p",
      { class: "quiet", id: "no-scores" },
      "This epoch was not scored. In warm-up, every sample trains all modalities.",
    );
    const graphs = h(
      "div",
      { class: "grid small" },
      [...histograms.values()].map((chart) => chart.element),
    );
    const explanation = h(
      "p",
      { class: "note" },
      "Difficulty: the entropy of the unimodal head's prediction, from 0 (certain) to 1 (uniform).",
    );
    const histogramPart = h(
      "div",
      { class: "part" },
      h("h3", {}, "Difficulty of the samples"),
      noScores,
      explanation,
      graphs,
    );
    const points = scatter.figure(run, modalities, { onSample });
    const moved = moves.part(run, modalities, { sampleLink });
    const filter = h(
      "select",
      { id: "steps-modality", onchange: () => steps.first() },
      h("option", { value: "" }, "any"),
      modalities.map((name) => h("option", { value: name }, name)),
    );
    const steps = paged({
      caption: "Steps",
      columns: [
        { name: "step", head: true, num: true },
        { name: "modality" },
        { name: "samples", num: true },
        { name: "row numbers", fill: true },
      ],
      limit: NUM_STEPS,
      empty: "No step trains this modality.",
      total: () =>
        filter.value
          ? (stats?.modalities[filter.value]?.num_steps ?? 0)
          : (stats?.num_steps ?? null),
      load: (start, limit) =>
        api.get(
          api.pagePath(
            `${path()}/steps`,
            start,
            limit,
            filter.value ? `&modality=${api.part(filter.value)}` : "",
          ),
          loading.signal,
        ),
      row: (row) => [
        format.integer(row.step),
        modalityChip(row.modality),
        format.integer(row.rows.length),
        rowNumbers(row.rows),
      ],
    });
    const body = h(
      "div",
      { class: "part" },
      properties,
      order.element,
      shares.element,
      histogramPart,
      sampled && h("div", { class: "grid" }, points.element, moved.element),
      h(
        "div",
        { class: "bar" },
        h("h3", {}, "Steps"),
        api.report
          ? null
          : [h("label", { for: "steps-modality", class: "note" }, "Modality"), filter],
      ),
      steps.element,
    );
    const none = quiet("No epoch has a plan yet.");

    const path = () => `${api.runPath(run)}/plans/${epoch}`;

    async function choose(to) {
      if (to === epoch || !epochs.includes(to)) return;
      epoch = to;
      showPosition();
      onEpoch(epoch, epoch === epochs.at(-1));
      loading.abort();
      loading = new AbortController();
      await load(loading.signal, true);
    }

    function showPosition() {
      slider.max = String(Math.max(0, epochs.length - 1));
      slider.value = String(epochs.indexOf(epoch));
      slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
      output.textContent = `${epoch} (0 to ${epochs.at(-1)})`;
      bar.hidden = body.hidden = !epochs.length;
      none.hidden = epochs.length > 0;
    }

    async function load(abort, fromStart) {
      try {
        const [detail, newStats] = await Promise.all([
          api.get(path(), abort),
          api.get(`${path()}/stats`, abort),
        ]);
        if (abort.aborted) return;
        errors.replaceChildren();
        body.hidden = false;
        if (newStats === stats && !fromStart) return;
        stats = newStats;
        draw(detail);
        await Promise.all([
          fromStart ? steps.reset() : steps.refresh(),
          sampled && points.show(epoch, detail.has_scores, abort),
          sampled && moved.show(epochs, epoch, abort),
        ]);
      } catch (error) {
        if (error.name === "AbortError" || abort.aborted) return;
        stats = null;
        body.hidden = true;
        errors.replaceChildren(dom.problem(error));
      }
    }

    function draw(detail) {
      const sizes = stats.batch_sizes;
      const size =
        sizes.min === sizes.max
          ? format.integer(sizes.max)
          : `${format.integer(sizes.min)} to ${format.integer(sizes.max)}`;
      properties.replaceChildren(
        dom.properties([
          ["policy", detail.policy],
          ["steps", format.integer(stats.num_steps)],
          ["samples", format.integer(stats.num_rows)],
          ["batch size", size],
          ["order", detail.order ?? format.NONE],
          ["modality changes between steps", format.integer(stats.num_switches)],
          ["samples that changed modality", format.percent(stats.churn)],
          ["batches read per batch needed", format.fixed(stats.read_amplification)],
          ["fingerprint", h("code", {}, detail.fingerprint.slice(0, 12))],
        ]),
      );
      order.reset();
      order.draw(() => strip());
      const scores = stats.histograms;
      const own = Object.keys(stats.modalities);
      shares.update(
        own.map((name) => [
          modalityChip(name),
          format.percent(stats.modalities[name].share),
          format.integer(stats.modalities[name].num_rows),
          format.integer(stats.modalities[name].num_steps),
          format.fixed(scores?.[name]?.difficulty?.mean),
          format.integer(scores?.[name]?.num_missing),
        ]),
      );
      drawHistograms();
    }

    function strip() {
      const { edges, num_steps: counts } = stats.order;
      const names = Object.keys(counts);
      const widths = edges.slice(1).map((edge, i) => edge - edges[i]);
      const middles = widths.map((width, i) => edges[i] + width / 2);
      const traces = names.map((name) =>
        charts.bars(
          name === "all" ? "all modalities" : name,
          middles,
          counts[name].map((num, i) => (widths[i] ? num / widths[i] : 0)),
          style(name),
          { width: widths },
        ),
      );
      const summary = names
        .map((name) => `${name}: ${format.count(stats.modalities[name]?.num_steps, "step")}`)
        .join(", ");
      return {
        traces,
        summary: `${summary}; ${format.count(stats.num_switches, "modality change")} between steps.`,
        layout: {
          barmode: "stack",
          bargap: 0,
          x: {
            title: { text: "step", standoff: 4 },
            range: [edges[0], edges.at(-1)],
            hoverformat: ".0f",
          },
          y: { visible: false, range: [0, 1], hoverformat: ".0%" },
          margin: { l: 12, r: 12, t: 2, b: 36 },
        },
        columns: [{ name: "steps", head: true }, ...names.map((name) => ({ name, num: true }))],
        rows: widths.map((width, i) => [
          width > 1 ? `${edges[i]} – ${edges[i + 1] - 1}` : String(edges[i]),
          ...names.map((name) => format.integer(counts[name][i])),
        ]),
      };
    }

    function drawHistograms() {
      const scores = stats?.histograms;
      noScores.hidden = Boolean(scores);
      graphs.hidden = explanation.hidden = !scores;
      if (!scores) return;
      const top = Math.max(
        1,
        ...modalities.map((name) => Math.max(0, ...(scores[name]?.difficulty?.counts ?? []))),
      );
      for (const [name, chart] of histograms)
        chart.draw(() => histogram(name, scores[name]?.difficulty, top));
    }

    function histogram(name, bins, top) {
      if (!bins) return { traces: [], empty: "No scores." };
      const { edges, counts, assigned } = bins;
      const middles = counts.map((_, i) => (edges[i] + edges[i + 1]) / 2);
      const width = counts.map((_, i) => edges[i + 1] - edges[i]);
      const sum = (values) => (values ?? []).reduce((a, b) => a + b, 0);
      const all = charts.bars("all samples", middles, counts, { colour: "var(--s5)" }, { width });
      const own = charts.bars(`assigned to ${name}`, middles, assigned ?? [], style(name), {
        width,
      });
      return {
        traces: assigned ? [all, own] : [all],
        summary: `Epoch ${epoch}: ${format.integer(sum(counts))} samples, mean difficulty ${format.fixed(bins.mean)}; ${format.integer(sum(assigned))} assigned to ${name}.`,
        layout: {
          barmode: "overlay",
          bargap: 0,
          x: {
            title: { text: AXIS, standoff: 4 },
            range: [edges[0], edges.at(-1)],
            hoverformat: ".2f",
          },
          y: { title: { text: "samples" }, range: [0, top * 1.05] },
        },
        columns: [
          { name: AXIS, head: true },
          { name: "all samples", num: true },
          { name: `assigned to ${name}`, num: true },
        ],
        rows: counts.map((num, i) => [
          `${format.fixed(edges[i])} – ${format.fixed(edges[i + 1])}`,
          format.integer(num),
          format.integer(assigned?.[i]),
        ]),
      };
    }

    // planned: epochs that have a plan; wanted: the selected one, or null for the newest.
    async function update(planned, wanted) {
      epochs = planned;
      if (!epochs.length) return showPosition();
      const to = wanted !== null && epochs.includes(wanted) ? wanted : epochs.at(-1);
      const moved = to !== epoch;
      epoch = to;
      showPosition();
      if (moved) {
        loading.abort();
        loading = new AbortController();
      }
      await load(loading.signal, moved);
    }

    signal.addEventListener("abort", () => loading.abort());
    showPosition();
    return {
      element: h(
        "section",
        { class: "part", id: "plan" },
        h("h2", {}, "Plan of one epoch"),
        none,
        bar,
        errors,
        body,
      ),
      choose,
      update,
      epoch: () => epoch,
    };
  }

  function rowNumbers(rows) {
    const first = rows.slice(0, ROWS_SHOWN).join(", ");
    if (rows.length <= ROWS_SHOWN) return h("span", { class: "rows" }, first);
    return h(
      "details",
      { class: "rows" },
      h("summary", {}, `${first}, …`),
      rows.slice(ROWS_SHOWN).join(", "),
    );
  }

  return { section };
})();
