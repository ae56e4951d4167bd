"use strict";
// Formats numbers for display; unknown values become a dash.
const format = (() => {
  const NONE = "–";
  const known = (value) => typeof value === "number" && Number.isFinite(value);
  const minus = (text) => text.replace("-", "−");

  const fixed = (value, digits = 2) => (known(value) ? minus(value.toFixed(digits)) : NONE);
  const percent = (value) => (known(value) ? `${minus((100 * value).toFixed(1))}%` : NONE);
  const integer = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : NONE);
  const spread = (mean, sd) =>
    known(sd) ? `${percent(mean).slice(0, -1)} ± ${percent(sd)}` : percent(mean);

  function points(mean, sd) {
    if (!known(mean)) return NONE;
    const value = `${mean > 0 ? "+" : ""}${minus((100 * mean).toFixed(1))}`;
    return known(sd) ? `${value} ± ${(100 * sd).toFixed(1)}` : value;
  }

  function probability(value) {
    if (!known(value)) return NONE;
    return value < 0.001 ? "< 0.001" : value.toFixed(3);
  }

  function seconds(value) {
    if (!known(value)) return NONE;
    if (value >= 5400) return `${(value / 3600).toFixed(1)} h`;
    if (value >= 90) return `${(value / 60).toFixed(1)} min`;
    return value >= 10
      ? `${value.toFixed(0)} s`
      : value >= 0.1
        ? `${value.toFixed(2)} s`
        : `${(1000 * value).toFixed(0)} ms`;
  }

  function bytes(value) {
    if (!known(value)) return NONE;
    const power = Math.min(4, Math.max(0, Math.floor(Math.log2(value || 1) / 10)));
    return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  }

  const when = (text) => (text ? `${text.slice(0, 10)} ${text.slice(11, 16)} UTC` : NONE);
  const count = (num, one, many = `${one}s`) => `${integer(num)} ${num === 1 ? one : many}`;

  return {
    bytes,
    count,
    fixed,
    integer,
    known,
    NONE,
    percent,
    points,
    probability,
    seconds,
    spread,
    when,
  };
})();
