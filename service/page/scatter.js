"use strict";
// Difficulty of samples, modality against modality, coloured by assignment.
const scatter = (() => {
  const { h } = dom;
  const LIMIT = api.report ? 1000 : 5000;

  const pathOf = (run, epoch) => `${api.runPath(run)}/scores/${epoch}/points?limit=${LIMIT}`;

  // onSample(id): called on a click on a point.
  function figure(run, modalities, { onSample }) {
    const style = charts.palette(modalities);
    const select = (id, value) =>
      h(
        "select",
        { id, onchange: () => points && draw() },
        modalities.map((name, i) => h("option", { value: name, selected: i === value }, name)),
      );
    const [across, up] = [select("scatter-x", 0), select("scatter-y", 1)];
    const axes = h(
      "div",
      { class: "bar" },
      h("label", { for: "scatter-x", class: "note" }, "Across"),
      across,
      h("label", { for: "scatter-y", class: "note" }, "Up"),
      up,
    );
    const chart = charts.figure("scatter", "Difficulty in two modalities", {
      note: "The same samples in each epoch, chosen by chance. A click opens the sample.",
      height: 380,
      onPick: (_, point) => onSample(point.customdata[0]),
    });
    const message = h("p", { class: "note" });
    const errors = h("div");
    const element = h(
      "div",
      { class: "part", hidden: modalities.length < 2 },
      axes,
      chart.element,
      message,
      errors,
    );
    let points = null;

    async function show(epoch, hasScores, abort) {
      if (modalities.length < 2) return;
      element.hidden = !hasScores;
      if (!hasScores) return;
      try {
        const loaded = await api.get(pathOf(run, epoch), abort);
        if (abort.aborted) return;
        points = loaded;
        errors.replaceChildren();
        chart.element.hidden = axes.hidden = message.hidden = false;
        draw();
      } catch (error) {
        if (error.name === "AbortError" || abort.aborted) return;
        points = null;
        chart.element.hidden = axes.hidden = message.hidden = true;
        errors.replaceChildren(dom.problem(error));
      }
    }

    const label = (assigned) =>
      assigned === null ? "in no plan" : assigned === "all" ? "all modalities" : assigned;

    function draw() {
      const [x, y] = [across.value, up.value];
      const both = points.row.flatMap((_, i) =>
        points.difficulty[x][i] === null || points.difficulty[y][i] === null ? [] : [i],
      );
      const chosen = points.counts.map(({ assigned }) =>
        both.filter((i) => points.assigned[i] === assigned),
      );
      const left = [
        [points.num_rows - points.num_points, "not chosen"],
        [points.num_points - both.length, "without both modalities"],
      ].flatMap(([num, why]) => (num ? `${format.integer(num)} ${why}` : []));
      message.textContent = `Drawn: ${format.integer(both.length)} of ${format.count(points.num_rows, "scored sample")}.${left.length ? ` Not drawn: ${left.join(", ")}.` : ""}`;
      chart.reset();
      chart.draw(() => spec(x, y, both, chosen));
    }

    function spec(x, y, both, chosen) {
      const axis = (name) => ({
        title: { text: `difficulty: ${name}`, standoff: 6 },
        range: [-0.02, 1.02],
        showgrid: true,
        hoverformat: ".2f",
      });
      const verdict = (name, i) => (points.correct[name][i] ? "right" : "wrong");
      const traces = points.counts.map(({ assigned }, k) => {
        const own = style(assigned);
        return {
          type: "scatter",
          mode: "markers",
          name: label(assigned),
          x: chosen[k].map((i) => points.difficulty[x][i]),
          y: chosen[k].map((i) => points.difficulty[y][i]),
          customdata: chosen[k].map((i) => [points.sample_id[i], verdict(x, i), verdict(y, i)]),
          text: chosen[k].map((i) => escape(points.sample_id[i])),
          hovertemplate: `%{text}<br>${escape(x)}: %{x:.2f} (%{customdata[1]})<br>${escape(y)}: %{y:.2f} (%{customdata[2]})<extra></extra>`,
          marker: { color: charts.rgb(own.colour), size: 6, opacity: 0.65, symbol: own.symbol },
          legend: own,
        };
      });
      const mean = (list, name) =>
        list.length ? list.reduce((sum, i) => sum + points.difficulty[name][i], 0) / list.length : null;
      return {
        traces,
        summary: `Epoch ${points.epoch}: ${points.counts.map(({ assigned }, k) => `${format.integer(chosen[k].length)} assigned to ${label(assigned)}`).join(", ")}.`,
        empty: both.length ? null : "No sample has both modalities.",
        layout: { x: axis(x), y: axis(y), hovermode: "closest" },
        columns: [
          { name: "assigned to", head: true },
          { name: "scored", num: true },
          { name: "drawn", num: true },
          { name: `mean difficulty: ${x}`, num: true },
          { name: `mean difficulty: ${y}`, num: true },
        ],
        rows: points.counts.map(({ assigned, num_rows: num }, k) => [
          label(assigned),
          format.integer(num),
          format.integer(chosen[k].length),
          format.fixed(mean(chosen[k], x)),
          format.fixed(mean(chosen[k], y)),
        ]),
      };
    }

    return { element, show };
  }

  // Plotly reads a few tags in texts.
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  return { figure };
})();
