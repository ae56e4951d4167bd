"use strict";
// A comparison: results of each method, a verdict, statistical tests, and curves (mean over seeds,
// band of one SD).
const comparison = (() => {
  const { chip, properties, h, table } = dom;

  async function view({ main, params, signal }) {
    const name = params[0];
    const path = `v1/comparisons/${api.part(name)}`;
    const [detail, points] = await Promise.all([
      api.get(path, signal),
      api.all(`${path}/curves`, signal),
    ]);
    const methods = detail.methods.map((result) => result.method);
    const style = charts.palette(methods, "a");
    const heads = [...new Set(detail.methods.flatMap((result) => Object.keys(result.accuracy)))];
    const modalities = [...new Set(points.flatMap((point) => Object.keys(point.modalities)))];
    const lastEpoch = points.reduce((last, point) => Math.max(last, point.epoch), 0);
    const tuned = Object.keys(detail.methods[0].tuned);
    const methodChip = (method) => chip(method, style(method).colour);
    const head = (title) =>
      h(
        "div",
        { class: "head" },
        h("p", { class: "crumbs" }, h("a", { href: "#/comparisons" }, "Comparisons"), " /"),
        h("h1", { tabindex: -1 }, title),
        h("p", { class: "verdict" }, detail.headline),
        properties([
          ["methods", methods.join(", ")],
          [detail.seeds.length > 1 ? "seeds" : "seed", detail.seeds.join(", ")],
          ["budget", detail.budget],
          ["chance", format.percent(detail.chance)],
          [
            "majority class",
            `${detail.majority.name}: ${format.percent(detail.majority.accuracy)}`,
          ],
        ]),
        h("p", {}, detail.verdict),
      );
    const curves = panels("accuracy", [
      ["accuracy-fused", "Fused head", (point) => point.validation_accuracy],
      ...modalities.map((modality) => [
        `accuracy-${modality}`,
        `Unimodal head: ${modality}`,
        (point) => point.modalities[modality]?.validation_accuracy,
      ]),
    ]);
    const shares = panels("share of samples", [
      ...modalities.map((modality) => [
        `share-${modality}`,
        `Share of samples: ${modality}`,
        (point) => point.modalities[modality]?.share,
        "No method assigns samples to this modality alone.",
      ]),
      [
        "churn",
        "Samples that changed modality, %",
        (point) => point.churn,
        "No method assigns samples to single modalities.",
      ],
    ]);
    const part = (title, note, ...children) =>
      h(
        "section",
        { class: "part" },
        h("h2", {}, title),
        note ? h("p", { class: "note" }, note) : null,
        ...children,
      );

    // Charts of value(point) over epochs, with one range of values: [id, title, value, empty].
    function panels(axis, list) {
      const all = list.map(([, , value]) =>
        methods.map((method) => ({
          method,
          ...overSeeds(
            points.filter((point) => point.method === method),
            value,
          ),
        })),
      );
      const ends = all.flat().flatMap(({ mean, sd }) =>
        mean.flatMap((m, i) => [m - (sd[i] ?? 0), m + (sd[i] ?? 0)]),
      );
      const y = { ...charts.closeUp(ends), title: { text: axis } };
      return list.map(([id, title, , empty], i) => curve(id, title, all[i], y, empty));
    }

    // The tested epochs of the methods on their lines, as rings.
    function tested(own) {
      const at = own.map(({ method, x, mean }) => {
        const epoch = Math.round(
          detail.methods.find((result) => result.method === method).tested_epoch.median,
        );
        return [epoch, mean[x.indexOf(epoch)] ?? null];
      });
      return charts.rings(
        "tested",
        at.map(([x]) => x),
        at.map(([, y]) => y),
      );
    }

    // A line and a band for each method.
    function curve(id, title, own, y, empty = "No data yet.") {
      const chart = charts.figure(id, title);
      chart.draw(() => ({
        traces: own.flatMap(({ method, x, mean, sd }) => [
          ...(sd.some(format.known)
            ? [
                charts.band(
                  method,
                  x,
                  mean.map((m, i) => m - (sd[i] ?? 0)),
                  mean.map((m, i) => m + (sd[i] ?? 0)),
                  style(method),
                ),
              ]
            : []),
          charts.line(method, x, mean, style(method)),
        ]).concat(id.startsWith("accuracy") ? tested(own) : []),
        summary: own
          .filter(({ x }) => x.length)
          .map(
            ({ method, x, mean }) =>
              `${method} ${format.percent(mean.at(-1))} at epoch ${x.at(-1)}`,
          )
          .join(", "),
        empty: own.some(({ x }) => x.length) ? null : empty,
        layout: { x: charts.epochAxis(0, lastEpoch), y },
        columns: [
          { name: "epoch", num: true, head: true },
          ...methods.map((method) => ({ name: method, num: true })),
        ],
        rows: [...new Set(own.flatMap(({ x }) => x))]
          .sort((a, b) => a - b)
          .map((epoch) => [
            String(epoch),
            ...own.map(({ x, mean, sd }) =>
              format.spread(mean[x.indexOf(epoch)], sd[x.indexOf(epoch)]),
            ),
          ]),
      }));
      return chart.element;
    }

    function results() {
      const rows = table("Test accuracy", [
        { name: "method", head: true },
        ...heads.map((head) => ({ name: head, num: true })),
        ...tuned.map((field) => ({ name: field, num: true })),
        { name: "tested epoch", num: true },
        { name: "steps", num: true },
        { name: "relative time", num: true },
        ...(detail.budget === "epochs"
          ? []
          : [{ name: `${detail.budget} of the reference`, num: true }]),
        { name: "relative FLOPs", num: true },
      ]);
      rows.update(
        detail.methods.map((result) => [
          methodChip(result.method),
          ...heads.map((one) =>
            format.spread(result.accuracy[one]?.mean, result.accuracy[one]?.sd),
          ),
          ...tuned.map((field) => String(result.tuned[field])),
          testedEpoch(result.tested_epoch),
          format.integer(result.num_steps),
          format.fixed(result.time_ratio),
          ...(detail.budget === "epochs" ? [] : [format.fixed(result.budget_ratio.median, 3)]),
          format.fixed(result.cost.flops_ratio),
        ]),
      );
      return rows.element;
    }

    function trials() {
      const rows = table("Tuning", [
        { name: "method", head: true },
        ...tuned.map((field) => ({ name: field, num: true })),
        { name: `validation ${detail.tuning.metric}`, num: true },
        ...detail.tuning.seeds.map((seed) => ({ name: `seed ${seed}`, num: true })),
      ]);
      rows.update(
        detail.tuning.methods.flatMap(({ method, trials }) =>
          trials.map(({ values, mean, each }) => [
            methodChip(method),
            ...tuned.map((field) => String(values[field])),
            ...[mean, ...each].map((value) => format.fixed(value, 4)),
          ]),
        ),
      );
      return rows.element;
    }

    function tests() {
      const rows = table("Tests between methods", [
        { name: "method", head: true },
        { name: "against", head: true },
        { name: "accuracy" },
        { name: "difference, percentage points", num: true },
        { name: "95% interval", num: true },
        { name: "p (t-test over seeds)", num: true },
        { name: "p (Holm)", num: true },
      ]);
      rows.update(
        detail.tests.map(({ method, against, accuracy, difference, p, p_holm }) => [
          method,
          against,
          accuracy,
          format.points(difference.mean, difference.sd),
          format.known(difference.low)
            ? `${format.points(difference.low)} to ${format.points(difference.high)}`
            : format.NONE,
          format.probability(p),
          format.probability(p_holm),
        ]),
      );
      return rows.element;
    }

    function runs() {
      const rows = table("Test accuracy of each run", [
        { name: "method", head: true },
        ...detail.seeds.map((seed) => ({ name: `seed ${seed}`, num: true })),
      ]);
      rows.update(
        detail.methods.map((result) => [
          methodChip(result.method),
          ...detail.seeds.map((seed, i) =>
            h(
              "a",
              {
                href: `#/runs/${api.part(result.runs[i])}`,
                "aria-label": `${result.method}, seed ${seed}: ${format.percent(result.accuracy.fused.each[i])}`,
              },
              format.percent(result.accuracy.fused.each[i]),
            ),
          ),
        ]),
      );
      return rows.element;
    }

    main.replaceChildren(
      head(name),
      part(
        "Test accuracy",
        `fused: the fused head of the tested epoch, the paper's protocol; assembled: the assembled model; then the unimodal head of each modality. Mean ± standard deviation over seeds. Time and FLOPs are relative to ${detail.reference}. ${format.NONE}: this head was not trained.`,
        results(),
        ...detail.notes.map((text) => h("p", { class: "note" }, text)),
      ),
      part(
        "Statistical tests",
        "Difference of the test accuracies with the same seeds. p (Holm) is corrected for all tests of the table; unless it is small (say, below 0.05), the difference may be due to chance.",
        tests(),
      ),
      ...(detail.tuning
        ? [
            part(
              "Tuning",
              "Validation of the tested epochs with other values of the settings. The values of the best mean were chosen for the method; the seeds are not those of the results.",
              trials(),
            ),
          ]
        : []),
      part(
        "Validation accuracy",
        "Mean over seeds; the band is ± one standard deviation. A ring marks the tested epoch, the median over seeds.",
        h("div", { class: "grid small" }, curves),
      ),
      part(
        "Assignment of samples to modalities",
        "Share of samples assigned to each modality, and samples whose modality differs from the previous epoch.",
        h("div", { class: "grid small" }, shares),
      ),
      part("Runs", "Test accuracy of the fused head. Select a number to open its run.", runs()),
    );
    return { title: name, refresh: async () => {}, isLive: () => false };
  }

  // Median and range over seeds, with a mark if a run's is in the warm-up.
  function testedEpoch({ median, min, max, in_warmup }) {
    const mark = in_warmup.length ? " † (warm-up)" : "";
    return min === max ? `${min}${mark}` : `${median} (${min} to ${max})${mark}`;
  }

  // Mean and sample standard deviation per epoch, over the known values.
  function overSeeds(points, value) {
    const by = new Map();
    for (const point of points)
      if (format.known(value(point)))
        by.set(point.epoch, [...(by.get(point.epoch) ?? []), value(point)]);
    const x = [...by.keys()].sort((a, b) => a - b);
    const mean = x.map((epoch) => by.get(epoch).reduce((a, b) => a + b, 0) / by.get(epoch).length);
    const sd = x.map((epoch, i) => {
      const own = by.get(epoch);
      return own.length > 1
        ? Math.sqrt(
            own.reduce((sum, number) => sum + (number - mean[i]) ** 2, 0) / (own.length - 1),
          )
        : null;
    });
    return { x, mean, sd };
  }

  return { view };
})();
