"use strict";
// One run: its results, charts over its epochs, the plan of one epoch, one sample, and the rejected
// samples.
const run = (() => {
  const { badge, properties, h, quiet } = dom;
  const STAGES = ["score", "plan", "load", "step", "validate"];
  const column = (rows, get) => rows.map((row) => get(row) ?? null);

  async function view({ main, params, query, signal, announce, setQuery }) {
    const name = params[0];
    const path = api.runPath(name);
    let detail = await api.get(path, signal);
    let epochs = null;
    const names = detail.modalities;
    const style = charts.palette(names);
    const pick = (epoch) => {
      if (detail.plans.includes(epoch)) onePlan.choose(epoch);
    };
    const figures = {
      accuracy: charts.figure("accuracy", "Validation accuracy", {
        note: "Fused head, and the unimodal head of each modality. Warm-up epochs are shaded. If training masks modalities after warm-up, the line of the training batches breaks there: its two parts do not compare.",
        height: 260,
        onPick: pick,
      }),
      calibrated: charts.figure("calibrated", "Calibrated validation loss", {
        note: "Cross-entropy after the logits are divided by the best temperature. By default the tested epoch is the lowest of the fused head, and a modality's part of the assembled model the lowest of its head.",
        height: 260,
        onPick: pick,
      }),
      share: charts.figure("share", "Share of samples per modality", {
        note: "Samples assigned to each modality. In warm-up, every sample trains all modalities.",
        height: 260,
        onPick: pick,
      }),
      churn: charts.figure("churn", "Samples that changed modality, %", {
        note: "Samples assigned to another modality than in the previous epoch.",
        height: 260,
        onPick: pick,
      }),
      seconds: charts.figure("seconds", "Seconds per epoch, by stage", {
        note: "load: waiting for data; step: forward, backward and optimizer.",
        onPick: pick,
      }),
      loss: charts.figure("loss", "Loss", {
        note: "Cross-entropy of the fused head. All terms: with the weighted losses of the unimodal heads.",
        onPick: pick,
      }),
      rho: charts.figure("rho", "Confidence ratio, strongest to weakest modality", {
        note: "Confidence: mean probability that the unimodal head gives the correct class (validation split). 1 means balanced.",
        onPick: pick,
      }),
      cosines: charts.figure("cosines", "Cosine between gradients", {
        note: "For each modality: of the fused and the unimodal loss, in its encoder. Shared: of two modalities, in the shared parameters. −1 means opposed.",
        onPick: pick,
      }),
      alone: charts.figure("alone", "Fused head with a single modality", {
        note: "Validation accuracy when all other modalities are masked.",
        onPick: pick,
      }),
    };
    const diagnostics = h(
      "div",
      { class: "grid small", hidden: true },
      figures.cosines.element,
      figures.alone.element,
    );
    const status = h("span");
    const about = h("div", { class: "about" });
    const tiles = h("dl", { class: "tiles" });
    const failure = h("div");
    const onePlan = plan.section(name, names, {
      signal,
      onEpoch: (epoch, isLast) => {
        setQuery({ epoch: isLast ? null : epoch });
        drawEpochs();
      },
      onSample: openSample,
      sampleLink,
    });
    const lookAt = samples.section(name, names, { signal, sampleLink });
    const sampleHistory = sample.section(name, detail.features.name, names, {
      signal,
      tested: () => detail.best?.epoch ?? null,
      onPick: pick,
      onSearch: (id) => setQuery({ sample: id }),
    });
    async function openSample(id) {
      await sampleHistory.open(id);
      sampleHistory.element.scrollIntoView();
    }
    function sampleLink(id) {
      const open = (event) =>
        event.ctrlKey || event.metaKey || (event.preventDefault(), openSample(id));
      return h("a", { href: `#/runs/${api.part(name)}?sample=${api.part(id)}`, onclick: open }, id);
    }
    const rejected = lists.rejected(detail.features.name, signal);
    const predictions = h("div", { class: "predictions" });
    const rejectedPart = h("div", {}, rejected.element);
    const config = h("pre", { tabindex: 0, role: "region", "aria-label": "Configuration" });
    const part = (title, ...children) =>
      h("section", { class: "part" }, h("h2", {}, title), ...children);
    main.replaceChildren(
      h(
        "div",
        { class: "head" },
        h(
          "p",
          { class: "crumbs" },
          api.report ? "Report of a run" : [h("a", { href: "#/" }, "Runs"), " /"],
        ),
        h("div", { class: "title" }, h("h1", { tabindex: -1 }, name), status),
        about,
      ),
      failure,
      tiles,
      part(
        "Training",
        h("div", { class: "grid" }, figures.accuracy.element, figures.calibrated.element),
        h("div", { class: "grid" }, figures.share.element, figures.churn.element),
        h(
          "div",
          { class: "grid small" },
          [figures.seconds, figures.loss, figures.rho].map((chart) => chart.element),
        ),
        diagnostics,
      ),
      part("Test predictions", predictions),
      onePlan.element,
      lookAt.element,
      sampleHistory.element,
      part("Rejected samples", rejectedPart),
      h("section", {}, h("details", {}, h("summary", {}, "Configuration"), config)),
    );

    function drawHead() {
      const { train = {}, plan: planConfig = {} } = detail.config;
      status.replaceChildren(badge(detail.status));
      const comparisons = detail.comparisons.map((each) =>
        api.report ? each : lists.link("comparisons", each),
      );
      const assigns = epochs.some((row) => row.policy !== "joint");
      about.replaceChildren(
        properties([
          [
            "features",
            api.report ? detail.features.name : lists.link("features", detail.features.name),
          ],
          ["method", detail.method],
          ...(comparisons.length
            ? [[comparisons.length > 1 ? "comparisons" : "comparison", comparisons]]
            : []),
          ["seed", String(detail.seed)],
          [
            "epochs",
            `${detail.num_epochs} of ${detail.planned_epochs} (warm-up: ${detail.warmup_epochs})${detail.stopped_epoch === null ? "" : ", stopped early"}`,
          ],
          ...(assigns ? [["policy", planConfig?.policy ?? format.NONE]] : []),
          ["batch size", format.integer(train?.batch_size)],
          ["updated", format.when(detail.updated)],
          ["code version", detail.code_version],
        ]),
        ...(lists.isLive(detail)
          ? [
              h("progress", {
                max: detail.planned_epochs,
                value: detail.num_epochs,
                "aria-label": "Completed epochs",
              }),
            ]
          : []),
      );
      failure.replaceChildren(
        ...(detail.error ? [dom.problem({ title: "The run failed", detail: detail.error })] : []),
      );
      config.textContent = JSON.stringify(detail.config, null, 1);
    }

    const drawPredictions = () =>
      predictions.replaceChildren(...result.predictions(detail, classes));

    function drawEpochs() {
      if (!epochs) return;
      const x = epochs.map((row) => row.epoch);
      const base = (y) => ({
        x: charts.epochAxis(0, Math.max(detail.planned_epochs - 1, ...x)),
        y,
        ...charts.marks({
          warmup: detail.warmup_epochs,
          tested: detail.best?.epoch ?? null,
          epoch: onePlan.epoch(),
        }),
      });
      const lastOf = (values, text) =>
        values
          .map((get) => `${get.name} ${text(epochs.at(-1) && get.value(epochs.at(-1)))}`)
          .join(", ");
      const draw = (chart, series, text, more) =>
        chart.draw(() => ({
          traces: series.map((row) => row.trace(x, column(epochs, row.value))),
          summary: epochs.length ? `Epoch ${x.at(-1)}: ${lastOf(series, text)}.` : "",
          columns: [
            { name: "epoch", num: true, head: true },
            ...series.map((row) => ({ name: row.name, num: true })),
          ],
          rows: epochs.map((row) => [
            String(row.epoch),
            ...series.map(({ value }) => text(value(row))),
          ]),
          ...more(),
        }));
      const lined = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => charts.line(label, at, y, own),
      });
      const barred = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => charts.bars(label, at, y, own),
      });
      const heads = (key) => [
        lined("fused head", charts.FUSED, (row) => row[key]),
        ...names.map((name) => lined(name, style(name), (row) => row.modalities[name]?.[key])),
      ];
      const masks = epochs.map((row) =>
        names.some((name) => format.known(row.modalities[name]?.share)),
      );
      const batches = { ...charts.FUSED, dash: "dot", width: 1, colour: "var(--neutral)" };
      // a line that breaks between epochs of joint and of modality-pure batches
      const broken = (label, own, value) => ({
        name: label,
        value,
        trace: (at, y) => {
          const breaks = (values, between) =>
            values.flatMap((each, i) =>
              i && masks[i] !== masks[i - 1] ? [between(i), each] : [each],
            );
          return charts.line(
            label,
            breaks(at, (i) => at[i] - 0.5),
            breaks(y, () => null),
            own,
          );
        },
      });
      const training = broken("fused head, training batches", batches, (row) => row.train_accuracy);
      draw(figures.accuracy, [...heads("validation_accuracy"), training], format.percent, () => ({
        layout: base({ ...charts.percentAxis, title: { text: "accuracy" }, range: [0, 1.02] }),
      }));
      draw(figures.calibrated, heads("calibrated_loss"), format.fixed, () => ({
        layout: base({ title: { text: "cross-entropy" }, hoverformat: ".3f" }),
      }));
      draw(
        figures.share,
        names.map((name) => barred(name, style(name), (row) => row.modalities[name]?.share)),
        format.percent,
        () => ({
          layout: {
            ...base({ ...charts.percentAxis, title: { text: "samples" }, range: [0, 1] }),
            barmode: "stack",
            bargap: 0.15,
          },
          empty:
            epochs.length &&
            !epochs.some((row) => names.some((m) => format.known(row.modalities[m]?.share)))
              ? "So far, every sample trained all modalities."
              : undefined,
        }),
      );
      draw(
        figures.churn,
        [
          lined(
            "samples that changed modality",
            { colour: "var(--accent)", dash: "solid", symbol: "circle" },
            (row) => row.churn,
          ),
        ],
        format.percent,
        () => ({
          layout: base({ ...charts.percentAxis, title: { text: "samples" }, range: [0, 1] }),
          empty: epochs.some((row) => format.known(row.churn))
            ? undefined
            : "Available from the second epoch after warm-up.",
        }),
      );
      const rest = (row) =>
        format.known(row.seconds.epoch)
          ? Math.max(
              0,
              row.seconds.epoch - STAGES.reduce((sum, stage) => sum + (row.seconds[stage] ?? 0), 0),
            )
          : null;
      draw(
        figures.seconds,
        [
          ...STAGES.map((stage, i) =>
            barred(stage, { colour: `var(--s${i})` }, (row) => row.seconds[stage]),
          ),
          barred("other", { colour: "var(--s5)" }, rest),
        ],
        format.seconds,
        () => ({ layout: { ...base({ title: { text: "seconds" }, hoverformat: ".2f" }), barmode: "stack" } }),
      );
      draw(
        figures.loss,
        [
          lined("validation", charts.FUSED, (row) => row.validation_loss),
          broken("training batches", batches, (row) => row.train_fused_loss),
          broken(
            "training batches, all terms",
            { ...batches, colour: "var(--s2)", dash: "dash" },
            (row) => row.train_loss,
          ),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "cross-entropy" }, hoverformat: ".3f" }) }),
      );
      draw(
        figures.rho,
        [
          lined(
            "confidence ratio",
            { colour: "var(--accent)", dash: "solid", symbol: "circle" },
            (row) => row.rho,
          ),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "ratio" }, hoverformat: ".2f" }) }),
      );
      diagnostics.hidden = !epochs.some((row) =>
        names.some((m) => format.known(row.modalities[m]?.zero_mask_accuracy)),
      );
      if (diagnostics.hidden) return;
      const own = (key) =>
        names.map((name) => lined(name, style(name), (row) => row.modalities[name]?.[key]));
      draw(
        figures.cosines,
        [
          ...own("gradient_cosine"),
          lined("shared", charts.FUSED, (row) => row.head_gradient_cosine),
        ],
        format.fixed,
        () => ({ layout: base({ title: { text: "cosine" }, range: [-1.02, 1.02], hoverformat: ".2f" }) }),
      );
      draw(figures.alone, own("zero_mask_accuracy"), format.percent, () => ({
        layout: base({ ...charts.percentAxis, title: { text: "accuracy" }, range: [0, 1.02] }),
      }));
    }

    async function refresh(first = false) {
      const [newDetail, newEpochs] = await Promise.all([
        first ? detail : api.get(path, signal),
        api.all(`${path}/epochs`, signal),
      ]);
      const changed = newDetail !== detail || newEpochs !== epochs;
      if (!changed && !first) return onePlan.choose(wanted ?? detail.plans.at(-1));
      if (!first && newEpochs.length !== epochs.length)
        announce(
          `${format.count(newEpochs.length, "epoch")} completed; validation accuracy ${format.percent(newEpochs.at(-1)?.validation_accuracy)}.`,
        );
      if (!first && newDetail.status !== detail.status) announce(`The run is ${newDetail.status}.`);
      [detail, epochs] = [newDetail, newEpochs];
      drawHead();
      dom.patch(tiles, result.tiles(detail, epochs, style));
      drawPredictions();
      await Promise.all([onePlan.update(detail.plans, wanted), lookAt.update(detail)]);
      drawEpochs();
      if (!first) await sampleHistory.refresh();
    }

    let wanted = epochOf(query);
    let classes = null;
    await refresh(true);
    if (query.get("sample")) await sampleHistory.open(query.get("sample"));
    try {
      const features = await api.get(`v1/features/${api.part(detail.features.name)}`, signal);
      classes = features.classes;
      lookAt.named(classes);
      drawPredictions();
      await rejected.show(features);
    } catch (error) {
      if (error.status === 401 || error.name === "AbortError") throw error;
      rejectedPart.replaceChildren(dom.problem(error)); // the features may have been deleted
    }
    return {
      title: name,
      refresh: () => {
        wanted = epochOf(setQuery());
        return refresh();
      },
      isLive: () => lists.isLive(detail),
      events: `${path}/events`,
    };
  }

  const epochOf = (query) => (query.has("epoch") ? Number(query.get("epoch")) : null);

  return { view };
})();
