"use strict";
// A sample's story: how hard it was for each modality, and what it trained, epoch by epoch.
const sample = (() => {
  const { chip, h, quiet, table } = dom;
  const OFFERED = 200;

  // modalities: names; signal: ends with the view; onPick(epoch): an epoch was clicked.
  // features: the name of the set that has the samples.
  function section(run, features, modalities, { signal, onPick, onSearch }) {
    const style = charts.palette(modalities);
    const held = heldIds(run);
    const input = h("input", { type: "search", id: "sample-id", name: "sample", autocomplete: "off", spellcheck: "false", required: true, list: "known-ids", onfocus: () => offer() });
    const form = h("form", { class: "bar", role: "search", onsubmit: (event) => { event.preventDefault(); search(input.value.trim()); } }, h("label", { for: "sample-id" }, "Sample id"), input, h("button", {}, "Find"));
    const options = h("datalist", { id: "known-ids" }, held.slice(0, OFFERED).map((id) => h("option", { value: id })));
    const hint = held.length
      ? `This report holds ${format.count(held.length, "sample")} of the run, ${held[0]} to ${held.at(-1)}; the service has all.`
      : "The key of a sample in its shard: how hard it was for each modality, and which one it trained.";
    const story = h("div", { class: "part", "aria-live": "polite" });
    const difficulty = charts.figure("Difficulty", { note: "1: the modality's prediction is uniform. A ring marks the modality that the sample trained.", onPick });
    const ability = charts.figure("Probability of the label", { note: "What each modality's head gave the right class.", onPick });
    const graphs = h("div", { class: "grid" }, difficulty.element, ability.element);
    const rows = table("The sample's epochs", [{ name: "epoch", head: true, num: true }, { name: "trained" }, { name: "step", num: true }, ...modalities.flatMap((name) => [{ name: `${name}: difficulty`, num: true }, { name: "KL, bits", num: true }, { name: "p(label)", num: true }])]);
    let shown = null;

    // The first samples, for those who know no id by heart.
    async function offer() {
      if (api.report || options.children.length) return;
      try {
        const { items } = await api.get(api.pagePath(`v1/features/${api.part(features)}/samples`, 0, OFFERED), signal);
        options.replaceChildren(...items.map((each) => h("option", { value: each.sample_id })));
      } catch {
        // an id can be typed all the same
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
        story.replaceChildren(dom.problem(error));
      }
    }

    function draw(found) {
      shown = found.sample_id;
      const missing = Object.entries(found.has).filter(([, has]) => !has).map(([name]) => name);
      const facts = [["class", found.class_name], ["split", found.split], ["row", format.integer(found.row)], ["shard", found.shard], ["missing", missing.join(", ") || "nothing"]];
      const planned = found.epochs.some((each) => each.step !== null || each.modalities);
      story.replaceChildren(h("h3", {}, found.sample_id), dom.facts(facts), ...(planned ? [graphs, rows.element] : [quiet("No plan and no scores have this sample: only the training split is planned.")]));
      if (!planned) return;
      for (const [chart, field] of [[difficulty, "difficulty"], [ability, "p_label"]]) chart.draw(() => lines(found, field));
      rows.update(found.epochs.map(row));
    }

    function lines(found, field) {
      const scored = found.epochs.filter((each) => each.modalities);
      const x = scored.map((each) => each.epoch);
      const traces = modalities.map((name) => charts.line(name, x, scored.map((each) => each.modalities[name]?.[field] ?? null), style(name)));
      const own = scored.filter((each) => each.modalities[each.assigned]);
      const ring = { type: "scatter", mode: "markers", name: "trained", x: own.map((each) => each.epoch), y: own.map((each) => each.modalities[each.assigned][field]), hoverinfo: "skip", marker: { symbol: "circle-open", size: 12, color: charts.rgb("var(--ink)"), line: { width: 1.5 } } };
      const last = scored.at(-1);
      const summary = last ? `Epoch ${last.epoch}: ${modalities.map((name) => `${name} ${format.fixed(last.modalities[name]?.[field])}`).join(", ")}.` : "";
      return {
        traces: [...traces, ring], summary, empty: scored.length ? null : "No epoch has scores of this sample.",
        layout: { x: charts.epochAxis(found.epochs[0].epoch, found.epochs.at(-1).epoch), y: { range: [-0.03, 1.05] } },
        columns: [{ name: "epoch", num: true }, ...modalities.map((name) => ({ name, num: true }))],
        rows: scored.map((each) => [String(each.epoch), ...modalities.map((name) => format.fixed(each.modalities[name]?.[field]))]),
      };
    }

    function row(each) {
      const trained = each.assigned === null ? format.NONE : modalities.includes(each.assigned) ? chip(each.assigned, style(each.assigned).colour) : each.assigned;
      const scores = modalities.flatMap((name) => {
        const own = each.modalities?.[name];
        return [format.fixed(own?.difficulty), format.fixed(own?.kl), format.fixed(own?.p_label)];
      });
      return [String(each.epoch), trained, each.step === null ? format.NONE : format.integer(each.step), ...scores];
    }

    return {
      element: h("section", { class: "part", id: "sample" }, h("h2", {}, "A sample's story"), form, options, h("p", { class: "note" }, hint), story),
      open: (id) => { input.value = id; return search(id); },
      refresh: () => (shown ? search(shown) : null),
    };
  }

  function heldIds(run) {
    const prefix = `${api.runPath(run)}/samples/`;
    return Object.keys(api.report?.responses ?? {}).filter((path) => path.startsWith(prefix)).map((path) => decodeURIComponent(path.slice(prefix.length)));
  }

  return { section };
})();
