"use strict";
// Figures: a Plotly chart, a legend of buttons, and a table of the same numbers. Colours are CSS
// variables of page.css.
const charts = (() => {
  const { h } = dom;
  const live = new Set();
  const NUM_COLOURS = 8;
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = [
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "triangle-down",
    "x",
    "star",
  ];
  const CONFIG = { displayModeBar: false };

  // Style of each name by its position; beyond the palette, hues differ by the golden angle.
  function palette(names, prefix = "m") {
    const value = (i) =>
      i < NUM_COLOURS ? `var(--${prefix}${i})` : `hsl(${Math.round((i * 137.5) % 360)} 60% 50%)`;
    const style = (i) => ({
      colour: value(i),
      dash: DASHES[Math.floor(i / NUM_COLOURS) % DASHES.length],
      symbol: SYMBOLS[i % SYMBOLS.length],
    });
    return (name) =>
      names.includes(name)
        ? style(names.indexOf(name))
        : { colour: "var(--neutral)", dash: "solid", symbol: "circle" };
  }

  // Loads Plotly, which is large, once a chart is on the page; a report contains it.
  let library = null;
  let loaded = Boolean(window.Plotly);
  const load = () =>
    (library ??= new Promise((done) =>
      document.head.append(
        h("script", { src: "assets/plotly.min.js", onload: done, onerror: done }),
      ),
    ).then(() => {
      loaded = true;
      for (const chart of live) chart.paint();
    }));

  const probe = h("span", { class: "hidden" });
  const resolved = new Map();
  theme.onChange(() => {
    resolved.clear();
    for (const chart of live) chart.paint();
  });

  // A CSS colour as rgb() or rgba(): Plotly does not support CSS variables.
  function rgb(value, opacity = 1) {
    if (!resolved.has(value)) {
      if (!probe.isConnected) document.body.append(probe);
      probe.style.color = value;
      resolved.set(value, getComputedStyle(probe).color);
    }
    return opacity === 1
      ? resolved.get(value)
      : resolved
          .get(value)
          .replace(/^rgba?\(([^)/,]+),\s*([^,]+),\s*([^,)]+).*$/, `rgba($1, $2, $3, ${opacity})`);
  }

  function axis({ title, ...more }) {
    const line = rgb("var(--line)");
    return {
      gridcolor: line,
      linecolor: line,
      zeroline: false,
      fixedrange: true,
      automargin: true,
      tickcolor: line,
      title: { ...title, font: { size: 12 } },
      ...more,
    };
  }

  function layout({ x = {}, y = {}, ...more }) {
    return {
      dragmode: false,
      showlegend: false,
      hovermode: "x unified",
      bargap: 0.25,
      margin: { l: 44, r: 12, t: 18, b: 36 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: {
        family: getComputedStyle(document.body).fontFamily,
        size: 12,
        color: rgb("var(--soft)"),
      },
      hoverlabel: {
        bgcolor: rgb("var(--surface)"),
        bordercolor: rgb("var(--line)"),
        font: { color: rgb("var(--ink)"), size: 12 },
      },
      xaxis: axis({ showgrid: false, ...x }),
      yaxis: axis({ rangemode: "tozero", ...y }),
      ...more,
    };
  }

  const percentAxis = { tickformat: ".0%", hoverformat: ".1%" };

  // An axis from half an epoch before the first to half an epoch after the last.
  function epochAxis(first, last) {
    return {
      title: { text: "epoch", standoff: 6 },
      range: [first - 0.5, last + 0.5],
      tickformat: "d",
      hoverformat: "d",
      ...(last - first < 10 ? { tick0: 0, dtick: 1 } : {}),
    };
  }

  // An axis around these values, at least 0.2 high so that noise does not look like a trend.
  function closeUp(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = Math.max(0.06 * (high - low), (0.2 - (high - low)) / 2);
    return { ...percentAxis, range: [Math.max(-0.02, low - pad), Math.min(1.02, high + pad)] };
  }

  // Marks on an epoch axis: warm-up as a shaded area, the tested and the selected epoch as lines.
  function marks({ warmup = 0, tested = null, epoch = null }) {
    const shapes = [];
    const annotations = [];
    const vertical = (x, line) =>
      shapes.push({ type: "line", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, layer: "below", line });
    const shade = {
      type: "rect",
      yref: "paper",
      x0: -0.5,
      x1: warmup - 0.5,
      y0: 0,
      y1: 1,
      line: { width: 0 },
      layer: "below",
      fillcolor: rgb("var(--neutral)", 0.1),
    };
    if (warmup) shapes.push(shade);
    if (epoch !== null) vertical(epoch, { width: 1, dash: "dot", color: rgb("var(--accent)") });
    if (tested !== null) {
      vertical(tested, { width: 1, color: rgb("var(--soft)") });
      annotations.push({
        x: tested,
        y: 1,
        yref: "paper",
        yanchor: "bottom",
        text: "tested",
        showarrow: false,
        font: { size: 11, color: rgb("var(--soft)") },
      });
    }
    return { shapes, annotations };
  }

  function line(name, x, y, style, more = {}) {
    const color = rgb(style.colour);
    const size = x.length > 60 ? 0 : x.length > 20 ? 4 : 5;
    return {
      type: "scatter",
      mode: size ? "lines+markers" : "lines",
      name,
      x,
      y,
      connectgaps: false,
      line: { color, width: style.width ?? 2, dash: style.dash },
      marker: { color, size, symbol: style.symbol },
      legend: style,
      ...more,
    };
  }

  function bars(name, x, y, style, more = {}) {
    return {
      type: "bar",
      name,
      x,
      y,
      marker: { color: rgb(style.colour), line: { width: 0 } },
      legend: style,
      ...more,
    };
  }

  // Rings around points of lines.
  function rings(name, x, y) {
    return {
      type: "scatter",
      mode: "markers",
      name,
      x,
      y,
      hoverinfo: "skip",
      marker: {
        symbol: "circle-open",
        size: 12,
        color: rgb("var(--ink)"),
        line: { width: 1.5 },
      },
    };
  }

  // A band between two lines.
  function band(name, x, low, high, style) {
    const both = { x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()] };
    return {
      type: "scatter",
      mode: "lines",
      name,
      ...both,
      fill: "toself",
      fillcolor: rgb(style.colour, 0.15),
      line: { width: 0 },
      hoverinfo: "skip",
      quiet: true,
    };
  }

  // id: stable name, as data-chart. onPick(x, point): called on a click. draw(make): make() -> { traces,
  // layout, summary, columns, rows, empty }; called again if the colours change.
  function figure(id, title, { note = "", height = 220, onPick = null } = {}) {
    const legend = h("div", { class: "legend" });
    const plot = h("div", { class: "plot", role: "img", style: { height: `${height}px` } });
    const message = h("p", { class: "quiet nothing" });
    const numbers = h(
      "details",
      { class: "numbers", ontoggle: () => tabulate() },
      h("summary", {}, "Show as table"),
    );
    const element = h(
      "figure",
      { class: "chart", "data-chart": id },
      h("figcaption", {}, h("h3", {}, title), note ? h("p", { class: "note" }, note) : null),
      legend,
      message,
      plot,
      numbers,
    );
    const hidden = new Set();
    let make = null;
    let spec = null;
    let rows = null;
    let width = 0;
    const resized = new ResizeObserver(() => element.clientWidth !== width && paint()); // also called when it is inserted
    resized.observe(element);

    function press(event) {
      const name = event.currentTarget.dataset.name;
      if (!hidden.delete(name)) hidden.add(name);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(name)));
      paint();
    }

    function showLegend() {
      const shown = spec.traces.filter((trace) => trace.legend);
      const buttons = shown.map(({ name, legend: style }) =>
        h(
          "button",
          {
            type: "button",
            class: "chip",
            "data-name": name,
            "aria-pressed": String(!hidden.has(name)),
            "data-dash": style.dash,
            style: dom.colour(style.colour),
            title: "Show or hide in the chart",
            onclick: press,
          },
          name,
        ),
      );
      dom.patch(legend, shown.length > 1 ? buttons : []);
    }

    function tabulate() {
      if (!numbers.open || !spec?.columns) return;
      if (!rows) numbers.append((rows = dom.table(title, spec.columns)).element);
      rows.update(spec.rows);
    }

    function paint() {
      if (!make || !element.isConnected) return;
      width = element.clientWidth;
      spec = make();
      const empty =
        spec.empty ??
        (spec.traces.every((trace) => !trace.y.some((value) => value !== null))
          ? "No data yet."
          : "");
      message.textContent =
        empty ||
        (window.Plotly || !loaded
          ? ""
          : "The chart library (plotly.min.js) could not be loaded. The numbers are in the table below.");
      message.hidden = !message.textContent;
      plot.hidden = Boolean(empty) || (loaded && !window.Plotly);
      numbers.hidden = legend.hidden = Boolean(empty);
      plot.setAttribute("aria-label", `${title}. ${spec.summary ?? ""}`);
      if (empty) return;
      showLegend();
      tabulate();
      if (!window.Plotly) return void load();
      const traces = spec.traces.map(({ legend: style, quiet, ...trace }) => ({
        ...trace,
        visible: hidden.has(trace.name) ? false : true,
      }));
      Plotly.react(
        plot,
        traces,
        { ...layout(spec.layout ?? {}), width: plot.clientWidth, height },
        CONFIG,
      ).then(() => {
        if (onPick && !plot.picks) {
          plot.picks = true;
          plot.on("plotly_click", ({ points }) => onPick(points[0].x, points[0]));
        }
      });
    }

    const chart = {
      element,
      paint,
      draw: (next) => {
        make = next;
        paint();
      },
      reset: () => {
        rows?.element.remove();
        rows = null;
      },
    };
    live.add(chart);
    chart.close = () => {
      live.delete(chart);
      resized.disconnect();
      if (window.Plotly) Plotly.purge(plot);
    };
    return chart;
  }

  function closeAll() {
    for (const chart of [...live]) chart.close();
  }

  const FUSED = { colour: "var(--ink)", dash: "solid", symbol: "circle", width: 2.5 };
  return {
    band,
    bars,
    closeAll,
    closeUp,
    epochAxis,
    figure,
    FUSED,
    line,
    marks,
    palette,
    percentAxis,
    rgb,
    ready: () => library,
    rings,
  };
})();
