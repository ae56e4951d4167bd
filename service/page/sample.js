"use strict";
// History of one sample: its difficulty in each modality and its assignment, epoch by epoch.
const sample = (() => {
  const { chip, h, quiet, table } = dom;
  const MAX_SUGGESTIONS = 200;

  // run, features: names; modalities: their names; signal: aborted when the view closes; tested():
  // the tested epoch, or null;
  // onPick(epoch): called on a click on an epoch; onSearch(id): called when a search starts.
  function section(run, features, modalities, { signal, tested, onPick, onSearch }) {
    const style = charts.palette(modalities);
    const embedded = embeddedIds(run);
    const input = h("input", {
      type: "search",
      id: "sample-id",
      name: "sample",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      list: "known-ids",
      onfocus: () => suggest(),
    });
    const form = h(
      "form",
      {
        class: "bar",
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          search(input.value.trim());
        },
      },
      h("label", { for: "sample-id" }, "Sample id"),
      input,
      h("button", {}, "Find"),
    );
    const options = h(
      "datalist",
      { id: "known-ids" },
      embedded.slice(0, MAX_SUGGESTIONS).map((id) => h("option", { value: id })),
    );
    const hint = embedded.length
      ? `This report contains ${format.count(embedded.length, "sample")} of the run, such as ${embedded[0]} and ${embedded.at(-1)}. The service has all of them.`
      : "Difficulty of one sample in each modality, and the modality that it was assigned to, epoch by epoch.";
    const result = h("div", { class: "part", "aria-live": "polite" });
    const difficulty = charts.figure("sample-difficulty", "Difficulty", {
      note: "0: the unimodal head is certain; 1: its prediction is uniform. A ring marks the modality that the sample was assigned to.",
      onPick,
    });
    const probability = charts.figure("sample-probability", "Probability of the correct class", {
      note: "According to the unimodal head of each modality.",
      onPick,
    });
    const graphs = h("div", { class: "grid" }, difficulty.element, probability.element);
    const rows = table("History of the sample", [
      { name: "epoch", head: true, num: true },
      { name: "assigned to" },
      { name: "step", num: true },
      ...modalities.flatMap((name) => [
        { name: `${name}: difficulty`, num: true },
        { name: "p(correct class)", num: true },
      ]),
    ]);
    const pictures = media.section(features, modalities, { signal });
    let shown = null;

    // Suggests the first samples of the feature set.
    async function suggest() {
      if (api.report || options.children.length) return;
      try {
        const { items } = await api.get(
          api.pagePath(`v1/features/${api.part(features)}/samples`, 0, MAX_SUGGESTIONS),
          signal,
        );
        options.replaceChildren(...items.map((item) => h("option", { value: item.sample_id })));
      } catch {
        // suggestions are optional
      }
    }

    async function search(id) {
      if (!id) return;
      onSearch(id);
      try {
        draw(await api.get(`${api.runPath(run)}/samples/${api.part(id)}`, signal));
      } catch (error) {
        if (error.name === "AbortError") return;
        shown = null;
        result.replaceChildren(dom.problem(error));
      }
    }

    function draw(history) {
      shown = history.sample_id;
      const missing = Object.entries(history.has)
        .filter(([, present]) => !present)
        .map(([name]) => name);
      const properties = [
        ["class", history.class_name],
        ["split", history.split],
        ["row", format.integer(history.row)],
        ["shard", history.shard],
        ["missing modalities", missing.join(", ") || "none"],
      ];
      const planned = history.epochs.some((epoch) => epoch.step !== null || epoch.modalities);
      result.replaceChildren(
        h("h3", {}, history.sample_id),
        dom.properties(properties),
        pictures.element,
        ...(planned
          ? [graphs, rows.element]
          : [quiet("No plan contains this sample: plans contain the training split only.")]),
      );
      pictures.show(history);
      if (!planned) return;
      for (const [chart, field] of [
        [difficulty, "difficulty"],
        [probability, "p_label"],
      ])
        chart.draw(() => lines(history, field));
      rows.update(history.epochs.map(row));
    }

    function lines(history, field) {
      const scored = history.epochs.filter((epoch) => epoch.modalities);
      const x = scored.map((epoch) => epoch.epoch);
      const traces = modalities.map((name) =>
        charts.line(
          name,
          x,
          scored.map((epoch) => epoch.modalities[name]?.[field] ?? null),
          style(name),
        ),
      );
      const own = scored.filter((epoch) => epoch.modalities[epoch.assigned]);
      const ring = charts.rings(
        "assigned",
        own.map((epoch) => epoch.epoch),
        own.map((epoch) => epoch.modalities[epoch.assigned][field]),
      );
      const last = scored.at(-1);
      const summary = last
        ? `Epoch ${last.epoch}: ${modalities.map((name) => `${name} ${format.fixed(last.modalities[name]?.[field])}`).join(", ")}.`
        : "";
      return {
        traces: [...traces, ring],
        summary,
        empty: scored.length ? null : "This sample was not scored in any epoch.",
        layout: {
          x: charts.epochAxis(history.epochs[0].epoch, history.epochs.at(-1).epoch),
          y: {
            title: { text: field === "difficulty" ? "difficulty" : "probability" },
            range: [-0.03, 1.05],
          },
          ...charts.marks({ tested: tested() }),
        },
        columns: [{ name: "epoch", num: true }, ...modalities.map((name) => ({ name, num: true }))],
        rows: scored.map((epoch) => [
          String(epoch.epoch),
          ...modalities.map((name) => format.fixed(epoch.modalities[name]?.[field])),
        ]),
      };
    }

    function row(epoch) {
      const assigned =
        epoch.assigned === null
          ? format.NONE
          : modalities.includes(epoch.assigned)
            ? chip(epoch.assigned, style(epoch.assigned).colour)
            : epoch.assigned;
      const scores = modalities.flatMap((name) => {
        const own = epoch.modalities?.[name];
        return [format.fixed(own?.difficulty), format.fixed(own?.p_label)];
      });
      return [
        String(epoch.epoch),
        assigned,
        epoch.step === null ? format.NONE : format.integer(epoch.step),
        ...scores,
      ];
    }

    return {
      element: h(
        "section",
        { class: "part", id: "sample" },
        h("h2", {}, "Sample history"),
        form,
        options,
        h("p", { class: "note", id: "sample-hint" }, hint),
        result,
      ),
      open: (id) => {
        input.value = id;
        return search(id);
      },
      refresh: () => (shown ? search(shown) : null),
    };
  }

  // Ids of the samples that a report contains.
  function embeddedIds(run) {
    const prefix = `${api.runPath(run)}/samples/`;
    return Object.keys(api.report?.responses ?? {})
      .filter((path) => path.startsWith(prefix))
      .map((path) => decodeURIComponent(path.slice(prefix.length)));
  }

  return { section };
})();
